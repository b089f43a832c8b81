"""Where the engine calls a script, or looks at what it gave: whatever is raised there becomes the error of that request.

A script may call sys.exit(), a library may raise KeyboardInterrupt, or what extensions in Rust call a panic: nothing of that may
end an engine that holds requests. That a call came through here is also how signals.py knows that a script runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evenkeel.serve.engine.foreign import TEXT_CHARS_MAX, attribute, kind_of, ours, said, text_of
from evenkeel.serve.errors import (
    BadRequest,
    BodyTooLarge,
    EvenkeelError,
    ModelFailed,
    NotAcceptable,
    UnsupportedMedia,
    with_status,
)

PREDICTS = ("predict_fn", "the model")  # where an exception with a status is worth a line: the request had been taken
# Packages whose exceptions with a status are meant for the client.
SPEAKING = ("fastapi", "flask", "starlette", "werkzeug", "sagemaker_inference", "sagemaker_containers", "mms", "ts",
            "sagemaker_pytorch_serving_container", "sagemaker_sklearn_container", "sagemaker_xgboost_container",
            "sagemaker_huggingface_inference_toolkit", "model_hosting_container_standards")  # fmt: skip
REFUSALS: dict[int, type[EvenkeelError]] = {406: NotAcceptable, 413: BodyTooLarge, 415: UnsupportedMedia}


def guarded(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the script's `function`. Raises an EvenkeelError that names it by `name`, and nothing else."""
    try:
        return function(*arguments)
    except BaseException as e:
        error = blamed(name, e)
        if error is e:
            raise
        raise error from e


class Unfit(Exception):
    """What the script gave cannot be an answer; the words say why."""

    def __init__(self, words: str, family: type[ModelFailed] = ModelFailed) -> None:
        super().__init__(words)
        self.words, self.family = words, family


def judged(name: str, given: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Make something of what `name` gave. Raises an EvenkeelError that names both, and nothing else."""
    try:
        return function(*arguments)
    except BaseException as e:
        error = ours(e)
        if error is None:
            words, family = (e.words, e.family) if type(e) is Unfit else (said(e), ModelFailed)
            error = family(f"{name} returned {'None' if given is None else kind_of(given)}: {words}")
        raise error from e


def blamed(name: str, e: BaseException) -> EvenkeelError:
    """What the caller is told of an exception that came out of `name`."""
    own = ours(e)
    if own is not None:
        return own
    code = attribute(e, "status_code")
    if type(code) is int and 400 <= code < 600 and not of_a_package(e):
        own = refusal(code, _refusing_words(e) or said(e))
        own.to_log = name in PREDICTS
    else:
        own = ModelFailed(f"{name} raised {said(e)}")
    own.__cause__ = e
    return own


def refusal(code: int, text: str) -> EvenkeelError:
    """A status that the script chose, as the nearest of our errors under that very status. 429 is no fault of the client: it
    counts as the model's, as 500 and more do."""
    kind = REFUSALS.get(code, BadRequest) if code < 500 and code != 429 else ModelFailed
    return with_status(kind(text[:TEXT_CHARS_MAX]), code)


def of_a_package(e: BaseException) -> bool:
    """Whether its class is that of an installed package, and so what another server said to it; but for those that speak to our
    own client: the web frameworks' and the toolkits'."""
    module = text_of(attribute(type(e), "__module__", ""))
    if module.partition(".")[0] in SPEAKING:
        return False
    parts = Path(text_of(attribute(sys.modules.get(module), "__file__", "") or "")).parts
    return "site-packages" in parts or "dist-packages" in parts


def _refusing_words(e: BaseException) -> str:
    for name in ("detail", "message"):
        words = attribute(e, name)
        if words is not None and (text := text_of(words)):
            return text
    return text_of(e)
