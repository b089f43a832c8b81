"""The user's own `code/inference.py`, called as the AWS containers for PyTorch, scikit-learn and Hugging Face call it.

Owns the imported module and the model its `model_fn` gave. Runs whole requests: bytes in, bytes out. What the script
leaves out is done by a default. It must never unpickle anything itself, nor let one bad request fail another.

    model_fn(model_dir)                                   once
    input_fn(body, content_type)                          each request; body is str for JSON and CSV, else bytes
    predict_fn(data, model)                               each request, or once with a list of them (batched)
    output_fn(prediction, accept)                         each request
    transform_fn(model, body, content_type, accept)       instead of the three above

Each may take a further argument, the context of its request. The convention is that of sagemaker-inference-toolkit,
sagemaker-pytorch-inference-toolkit, sagemaker-scikit-learn-container and sagemaker-huggingface-inference-toolkit.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from serve.contract.manifest import Manifest
from serve.engine.backends.base import LoadOptions, RawReply, RawRequest, RawResult, RawStream
from serve.engine.backends.handler_context import Context, Facts, Processor
from serve.engine.backends.handler_defaults import (
    CSV,
    JSON,
    MESSAGE_CHARS_MAX,
    as_tensors,
    decoded,
    encoded,
    encoded_json,
    first_type,
    only_script,
    predicted,
    said,
    torch_of,
)
from serve.engine.backends.handler_stream import stream
from serve.engine.failures import translated
from serve.errors import (
    BadModel,
    BadRequest,
    BodyTooLarge,
    EvenkeelError,
    ModelFailed,
    NotAcceptable,
    OutOfMemory,
    UnsupportedMedia,
)

TEXT = (JSON, CSV)  # these bodies reach input_fn as str
ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
HEADER_CHARS_MAX = 1024  # the platform's limit; both headers together stay below its 4096 bytes for all of them
FRAMEWORKS = ("torch", "sklearn", "transformers", "onnxruntime", "xgboost", "lightgbm", "tensorflow")
MODULE_PREFIX = "evenkeel_handler_"
# A script may call sys.exit(), a library may raise KeyboardInterrupt, or what extensions in Rust call a panic: nothing of that
# may end an engine that holds requests.
RAISED = (BaseException,)


class HandlerBackend:
    def __init__(self, script: Script, model: Any, batched: bool) -> None:
        self._script, self._model, self.batched = script, model, batched
        self.reads_headers = script.reads_headers

    def handle(self, requests: Sequence[RawRequest]) -> Sequence[RawResult]:
        if self.batched:
            return self._together(requests)
        return [self._alone(request) for request in requests]

    def describe(self) -> Mapping[str, Any]:
        loaded = [(name, sys.modules[name]) for name in FRAMEWORKS if name in sys.modules]
        brought = [f"{name} {getattr(module, '__version__', '')}".strip() for name, module in loaded]
        return {"framework": ", ".join(brought) or "python", "device": "up to the handler",
                "batched": self.batched, "functions": sorted(self._script.own)}  # fmt: skip

    def _alone(self, request: RawRequest) -> RawResult:
        script, processor = self._script, Processor(request)
        context = Context(script.facts, [processor])
        try:
            body, content_type = _read(request)
            if script.transform_fn is not None:
                result = script.transform_fn(self._model, body, content_type, _wanted(request), context=context)
                return _reply(result, _wanted(request), processor)
            data = script.input_fn(body, content_type, context=context)
            prediction = script.predict_fn(data, self._model, context=context)
            return self._written(prediction, request, processor)
        except EvenkeelError as e:
            return e

    def _together(self, requests: Sequence[RawRequest]) -> list[RawResult]:
        """One predict_fn call for all requests whose input_fn took their bodies."""
        replies: dict[int, RawResult] = {}
        items: dict[int, Any] = {}
        processors = [Processor(request) for request in requests]
        for i, request in enumerate(requests):
            try:
                items[i] = self._script.input_fn(*_read(request), context=Context(self._script.facts, [processors[i]]))
            except EvenkeelError as e:
                replies[i] = e
        predictions = self._predict(list(items.values()), [processors[i] for i in items])
        for i, prediction in zip(items, predictions, strict=True):
            replies[i] = self._written(prediction, requests[i], processors[i])
        return [replies[i] for i in range(len(requests))]

    def _predict(self, items: list[Any], processors: Sequence[Processor]) -> Sequence[Any]:
        """A prediction or an EvenkeelError for each item. When the batch raises, each item is tried alone; but when it had too
        little memory, the engine is told so for all of them: it tries smaller batches, and makes none as large again."""
        if not items:
            return []
        try:
            predictions = self._script.predict_fn(items, self._model, context=Context(self._script.facts, processors))
        except EvenkeelError as e:
            if len(items) == 1 or isinstance(translated(e), OutOfMemory):
                return [e for _ in items]
            return [self._predict([item], [p])[0] for item, p in zip(items, processors, strict=True)]
        try:  # what is wrong here is a bug of the script and no fault of an item: trying them alone would hide it
            return _taken_apart(predictions, len(items))
        except ModelFailed as e:
            return [e for _ in items]

    def _written(self, prediction: Any, request: RawRequest, processor: Processor) -> RawResult:
        if isinstance(prediction, EvenkeelError):
            return prediction
        try:
            accept = _wanted(request)
            result = self._script.output_fn(prediction, accept, context=Context(self._script.facts, [processor]))
            return _reply(result, accept, processor)
        except EvenkeelError as e:
            return e


def _taken_apart(predictions: Any, count: int) -> list[Any]:
    """The predictions one by one. Raises ModelFailed."""
    kind = type(predictions).__name__
    if not isinstance(predictions, Sized) or isinstance(predictions, str | bytes | Mapping):
        raise ModelFailed(f"predict_fn takes batches: it must return a list of {count}, not {kind}")
    try:  # an array without dimensions has no length, a set no order, a table other keys
        size = len(predictions)
        apart = [predictions[i] for i in range(count)] if size == count else []  # type: ignore[index]
    except RAISED as e:
        raise ModelFailed(f"predict_fn takes batches: it must return a list of {count}, not {kind}: {said(e)}") from e
    if size != count:
        raise ModelFailed(f"predict_fn takes batches: it returned {size} predictions for {count} requests")
    return apart


# Loading --------------------------------------------------------------------------------------------------------------


def load(manifest: Manifest, options: LoadOptions) -> HandlerBackend:
    assert manifest.file is not None, "the manifest names a file for every backend but echo"
    module = _imported(manifest.file, manifest.folder)
    facts = Facts(manifest.name, str(manifest.folder), 0 if options.device else None)
    own = {name: function for name in NAMES if callable(function := getattr(module, name, None))}
    batched = manifest.batched_handler or getattr(module, "PREDICT_TAKES_BATCH", False) is True
    where = _relative(manifest.file, manifest.folder)
    if "transform_fn" in own and own.keys() & {"input_fn", "predict_fn", "output_fn"}:
        raise BadModel(f"{where}: transform_fn does it all; remove it or input_fn, predict_fn and output_fn")
    if batched and "predict_fn" not in own:
        raise BadModel(f"{where}: a batched handler needs its own predict_fn(list_of_inputs, model)")
    calls = {name: _call(function, NAMES[name], where) for name, function in own.items()}
    try:
        model = _made(calls, facts)
    except BadModel:
        raise
    except EvenkeelError as e:
        raise BadModel(f"{_frame(e.__cause__ or e, manifest.file, manifest.folder)}: {e.message}") from e.__cause__
    asks = any(_takes_context(own[name], NAMES[name], where) for name in own.keys() & PER_REQUEST)
    return HandlerBackend(_script(calls, model, facts, asks), model, batched)


def _made(calls: Mapping[str, Call], facts: Facts) -> Any:
    """The model, by the script's functions in the toolkit's order."""
    context = Context(facts)
    if "pre_model_fn" in calls:
        calls["pre_model_fn"](facts.model_dir, context=context)
    model_fn = calls.get("model_fn")
    model = only_script(facts.model_dir) if model_fn is None else model_fn(facts.model_dir, context=context)
    if "model_warmup_fn" in calls:
        calls["model_warmup_fn"](facts.model_dir, model, context=context)
    return model


# What the toolkit calls, and with how many arguments before the context.
NAMES = {"model_fn": 1, "input_fn": 2, "predict_fn": 2, "output_fn": 2, "transform_fn": 4, "pre_model_fn": 1,
         "model_warmup_fn": 2}  # fmt: skip
PER_REQUEST = {"input_fn", "predict_fn", "output_fn", "transform_fn"}
Call = Callable[..., Any]  # its own arguments, and context=


@dataclass(frozen=True, slots=True)
class Script:
    """The functions of the script, or the defaults in their place. `transform_fn` None: the three others."""

    input_fn: Call
    predict_fn: Call
    output_fn: Call
    transform_fn: Call | None
    own: frozenset[str]
    facts: Facts
    reads_headers: bool = False  # one of them takes a context


def _script(calls: Mapping[str, Call], model: Any, facts: Facts, reads_headers: bool) -> Script:
    torch = torch_of(model)
    if torch is not None and "predict_fn" not in calls:
        model.eval()
    defaults: dict[str, Call] = {
        "input_fn": lambda body, kind, context: _guarded("input_fn", lambda: as_tensors(decoded(body, kind), torch)),
        "predict_fn": lambda data, model, context: _guarded("the model", predicted, data, model, torch),
        "output_fn": lambda prediction, accept, context: _guarded("output_fn", encoded, prediction, accept),
    }
    input_fn, predict_fn, output_fn = (calls.get(name, default) for name, default in defaults.items())
    return Script(input_fn, predict_fn, output_fn, calls.get("transform_fn"), frozenset(calls), facts, reads_headers)


def _call(function: Callable[..., Any], count: int, where: str) -> Call:
    """Gives the function a context if it takes one, and turns whatever it raises into ModelFailed."""
    name = getattr(function, "__name__", "the function")
    takes = _takes_context(function, count, f"{where}: {name}")

    def call(*arguments: Any, context: Context) -> Any:
        if takes == "position":
            return _guarded(name, function, *arguments, context)
        if takes == "name":
            return _guarded(name, lambda: function(*arguments, context=context))
        return _guarded(name, function, *arguments)

    return call


def _takes_context(function: Callable[..., Any], count: int, where: str) -> str:
    """How the context is given: by "position", by "name", or "" for not at all.

    AWS passes it to any function with one argument more. A further argument that has a default and another name than
    context is not one: the script calls it itself.
    """
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise BadModel(f"{where} is async: handlers are called one after another, write it with a plain def")
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):  # something built in, which does not tell
        return ""
    placed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in placed if p.default is p.empty]
    open_ended = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if (len(placed) < count and not open_ended) or len(needed) > count + 1:
        raise BadModel(f"{where} takes {len(needed)} arguments, but is called with {count} and perhaps a context")
    if len(needed) == count + 1 or (len(placed) > count and placed[count].name in ("context", "ctx", "_context")):
        return "position"
    return "name" if any(p.name == "context" and p.kind is p.KEYWORD_ONLY for p in parameters) else ""


def _guarded(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except EvenkeelError:
        raise
    except RAISED as e:
        code = getattr(e, "status_code", None)
        if isinstance(code, int) and 400 <= code < 500:  # as the toolkits' own errors and FastAPI's HTTPException have it
            raise refusal(code, str(getattr(e, "detail", "") or getattr(e, "message", "") or e)) from e
        raise ModelFailed(f"{name} raised {said(e)}") from e


REFUSALS: dict[int, type[EvenkeelError]] = {406: NotAcceptable, 413: BodyTooLarge, 415: UnsupportedMedia}


def refusal(code: int, text: str) -> EvenkeelError:
    """A status that the script chose, as the nearest of our errors."""
    return REFUSALS.get(code, BadRequest)(text[:MESSAGE_CHARS_MAX]) if code < 500 else ModelFailed(text[:MESSAGE_CHARS_MAX])


def _imported(file: Path, folder: Path) -> ModuleType:
    """The script as a module, its folder first on the path so that modules beside it can be imported.

    It is known under its own name too, as in the AWS containers: a pickle made by the script names its classes so.
    """
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    name = MODULE_PREFIX + file.stem
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise BadModel(f"{file}: a handler must be a Python file, *.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if getattr(sys.modules.get(file.stem), "__name__", name) == name:
        sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as e:
        at = f"{_relative(Path(e.filename or file), folder)}:{e.lineno}"
        raise BadModel(f"{at}: SyntaxError: {e.msg}") from e
    except RAISED as e:
        advice = "; install it in the image, or set EVENKEEL_INSTALL_REQUIREMENTS=1 for code/requirements.txt at start"
        hint = advice if isinstance(e, ModuleNotFoundError) else ""
        raise BadModel(f"{_frame(e, file, folder)}: import failed: {said(e)}{hint}") from e
    return module


def _frame(e: BaseException, file: Path, folder: Path) -> str:
    """The last line of the user's own files that the exception went through."""
    frames = [f for f in traceback.extract_tb(e.__traceback__) if Path(f.filename).is_relative_to(folder)]
    return f"{_relative(Path(frames[-1].filename), folder)}:{frames[-1].lineno}" if frames else _relative(file, folder)


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


# One request ----------------------------------------------------------------------------------------------------------


def _read(request: RawRequest) -> tuple[str | bytes, str]:
    """The body as the script expects it, and its bare type: scripts compare it with ==, so parameters go."""
    content_type = request.content_type.partition(";")[0].strip().lower() or JSON
    if content_type not in TEXT:
        return request.body, request.content_type.strip()
    try:
        return request.body.decode("utf-8"), content_type
    except UnicodeDecodeError as e:
        raise BadRequest(f"the body is not UTF-8, which {content_type} must be: byte {e.start}") from e


def _wanted(request: RawRequest) -> str:
    """Accept as the client sent it; scripts compare it with ==, so anything goes becomes JSON."""
    accept = request.accept.strip()
    return JSON if accept in ("", "*/*") else accept


def _reply(result: Any, accept: str, processor: Processor) -> RawReply | RawStream:
    """What output_fn or transform_fn may return: str, bytes, (body, content type), a response object as Flask has it,
    anything that fits into JSON, or an iterator of parts (in any of these places). Raises for a status of 400 or more that
    the script has set."""
    content_type = ""
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], str):
        result, content_type = result
    elif hasattr(result, "mimetype") or hasattr(result, "media_type"):
        content_type = getattr(result, "mimetype", None) or getattr(result, "media_type", None) or ""
        response, result = result, _guarded("the response", _body_of, result)
        processor.code = _status_of(response, processor.code)
    if isinstance(result, AsyncIterator):
        raise ModelFailed("the handler gave an async generator: handlers are called one after another, write it with def")
    if isinstance(result, Iterator):
        return stream(result, accept, lambda otherwise: _head(content_type, otherwise, processor), _guarded)
    if result is None:
        raise ModelFailed("the handler returned None: does output_fn or transform_fn lack a return?")
    otherwise = first_type(accept)
    if isinstance(result, str):
        body = result.encode("utf-8", "replace")
    elif isinstance(result, bytes | bytearray | memoryview):
        body = bytes(result)
    else:
        body, content_type = _guarded("the reply", encoded_json, result).encode("utf-8", "replace"), JSON
    return RawReply(body, *_head(content_type, otherwise, processor, body))


def _head(content_type: str, otherwise: str, processor: Processor, body: bytes = b"") -> tuple[str, str | None]:
    """Content type and custom attributes: what was returned with the body counts before what was set on the context."""
    if processor.code >= 400:
        text = processor.phrase or body.decode("utf-8", "replace")[:MESSAGE_CHARS_MAX]
        raise refusal(processor.code, text)
    content_type = content_type or processor.headers.get("content-type") or otherwise
    attributes = processor.headers.get(ATTRIBUTES)
    for name, value in (("Content-Type", content_type), ("Custom Attributes", attributes or "")):
        if len(value) > HEADER_CHARS_MAX or not all(" " <= c <= "~" for c in value):
            raise ModelFailed(f"the reply's {name} must be at most {HEADER_CHARS_MAX} visible ASCII characters")
    return content_type, attributes


def _status_of(response: Any, otherwise: int) -> int:
    code = getattr(response, "status_code", otherwise)
    return code if isinstance(code, int) else otherwise


def _body_of(response: Any) -> Any:
    """The body of a response object: Flask's get_data(), Starlette's body, or the list Werkzeug keeps."""
    if callable(getattr(response, "get_data", None)):
        return response.get_data()
    body = getattr(response, "response", getattr(response, "body", None))
    if isinstance(body, list | tuple):
        return b"".join(part.encode("utf-8") if isinstance(part, str) else bytes(part) for part in body)
    return body
