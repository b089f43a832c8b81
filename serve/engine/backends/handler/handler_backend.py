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
import os
import sys
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from evenkeel.serve.contract.manifest import Manifest
from evenkeel.serve.engine.backends.base import Capabilities, LoadOptions, RawRequest, RawResult
from evenkeel.serve.engine.backends.handler import hugging_face, script_surroundings
from evenkeel.serve.engine.backends.handler.handler_context import NO_CONTEXT, UNASKED, Context, Facts, Processor
from evenkeel.serve.engine.backends.handler.handler_defaults import (
    CSV,
    JSON,
    as_tensors,
    decoded,
    encoded,
    only_script,
    predicted,
    torch_of,
)
from evenkeel.serve.engine.backends.handler.handler_reply import reply
from evenkeel.serve.engine.backends.handler.handler_text import text_of_body
from evenkeel.serve.engine.failures import translated
from evenkeel.serve.engine.foreign import attribute, cause_of, frames_of, kind_of, ours, root_of, said, text_of
from evenkeel.serve.engine.script_guard import blamed, guarded, judged
from evenkeel.serve.errors import BadModel, EvenkeelError, ModelFailed, OutOfMemory

TEXT = (JSON, CSV)  # these bodies reach input_fn as str
TYPES_REMEMBERED = 16
FRAMEWORKS = ("torch", "sklearn", "transformers", "onnxruntime", "xgboost", "lightgbm", "tensorflow")
MODULE_PREFIX = "evenkeel_handler_"
_scripts: set[str] = set()  # names under which scripts were imported here


class HandlerBackend:
    def __init__(self, script: Script, model: Any, batched: bool) -> None:
        self._script, self._model, self.batched = script, model, batched
        self.capabilities = Capabilities(batched=batched, reads_headers=script.reads_headers)
        self._pid = os.getpid()

    def handle(self, requests: Sequence[RawRequest]) -> Sequence[RawResult]:
        results = self._together(requests) if self.batched else [self._alone(request) for request in requests]
        if os.getpid() != self._pid:
            _end_child(results)
        return results

    def describe(self) -> Mapping[str, Any]:
        loaded = [(name, sys.modules[name]) for name in FRAMEWORKS if name in sys.modules]
        brought = [f"{name} {text_of(getattr(module, '__version__', ''))}".strip() for name, module in loaded]
        return {"framework": ", ".join(brought) or "python", "device": "up to the handler",
                "batched": self.batched, "functions": sorted(self._script.own)}  # fmt: skip

    def _alone(self, request: RawRequest) -> RawResult:
        script = self._script
        processor = Processor(request) if script.reads_headers else UNASKED
        context = self._context(processor)
        try:
            body, content_type = _read(request, script.reads_itself)
            if script.transform_fn is not None:
                result = script.transform_fn(self._model, body, content_type, _wanted(request), context=context)
            else:
                data = script.input_fn(body, content_type, context=context)
                prediction = script.predict_fn(data, self._model, context=context)
                result = script.output_fn(prediction, _wanted(request), context=context)
            return reply(script.answers, result, request, processor)
        except BaseException as e:  # the functions raise our errors only; should a look at an object escape, it is this request's
            return blamed(script.answers, e)

    def _context(self, *processors: Processor) -> Context:
        return Context(self._script.facts, processors) if self._script.reads_headers else NO_CONTEXT

    def _together(self, requests: Sequence[RawRequest]) -> list[RawResult]:
        """One predict_fn call for all requests whose input_fn took their bodies."""
        script, results = self._script, dict[int, RawResult]()
        items = dict[int, Any]()
        processors = [Processor(request) if script.reads_headers else UNASKED for request in requests]
        for i, request in enumerate(requests):
            try:
                items[i] = script.input_fn(*_read(request, script.reads_itself), context=self._context(processors[i]))
            except EvenkeelError as e:
                results[i] = e
        for i, prediction in self._predicted(items, processors, results).items():
            results[i] = self._written(prediction, requests[i], processors[i])
        return [results[i] for i in range(len(requests))]

    def _predicted(
        self, items: Mapping[int, Any], processors: Sequence[Processor], failed: dict[int, RawResult]
    ) -> Mapping[int, Any]:
        """The predictions by place; what went wrong goes into `failed`. When the batch raises, each item is tried alone; but
        when it had too little memory, the engine is told so for all of them: it tries smaller batches, and makes none as
        large again."""
        if not items:
            return {}
        context = self._context(*(processors[i] for i in items))
        try:
            predictions = self._script.predict_fn(list(items.values()), self._model, context=context)
        except EvenkeelError as e:
            if len(items) > 1 and not isinstance(translated(e), OutOfMemory):
                return {i: p for one in items for i, p in self._predicted({one: items[one]}, processors, failed).items()}
            failed.update(dict.fromkeys(items, e))
            return {}
        try:  # what is wrong here is a bug of the script and no fault of an item: trying them alone would hide it
            return dict(zip(items, guarded("predict_fn", _taken_apart, predictions, len(items)), strict=True))
        except EvenkeelError as e:
            failed.update(dict.fromkeys(items, e))
            return {}

    def _written(self, prediction: Any, request: RawRequest, processor: Processor) -> RawResult:
        script = self._script
        try:
            result = script.output_fn(prediction, _wanted(request), context=self._context(processor))
            return reply(script.answers, result, request, processor)
        except BaseException as e:  # as in `_alone`
            return blamed(script.answers, e)


def _taken_apart(predictions: Any, count: int) -> list[Any]:
    """The predictions one by one. Raises ModelFailed, or whatever looking at them raises."""
    wanted = f"predict_fn takes batches: it must return a list of {count}, not {kind_of(predictions)}"
    try:  # an array without dimensions has no length, a set no order, a table other keys
        if not isinstance(predictions, Sized) or isinstance(predictions, str | bytes | Mapping):
            raise ModelFailed(wanted)
        size = len(predictions)
        apart = [predictions[i] for i in range(count)] if size == count else []  # type: ignore[index]
    except ModelFailed:
        raise
    except BaseException as e:
        raise ModelFailed(f"{wanted}: {said(e)}") from e
    if size != count:
        raise ModelFailed(f"predict_fn takes batches: it returned {size} predictions for {count} requests")
    return apart


def _end_child(results: Sequence[RawResult]) -> None:
    """The script forked, and its child came back to us: by an end of its own or by mistake. The parent answers the requests."""
    cause = next((cause_of(r) for r in results if isinstance(r, EvenkeelError)), None)
    code = cause.code if isinstance(cause, SystemExit) else 0 if cause is None else 1
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


# Loading --------------------------------------------------------------------------------------------------------------


def load(manifest: Manifest, options: LoadOptions) -> HandlerBackend:
    """Raises BadModel, whatever the script does."""
    assert manifest.file is not None, "the manifest names a file for every backend but echo"
    file, folder = manifest.file, manifest.folder
    try:
        return _loaded(manifest, file, options)
    except BaseException as e:
        failure = ours(e) or ModelFailed(said(e))
        if isinstance(failure, BadModel):
            raise failure from e
        raise BadModel(f"{_frame(root_of(failure, e), file, folder)}: {failure.message}") from e


def _loaded(manifest: Manifest, file: Path, options: LoadOptions) -> HandlerBackend:
    if options.own_process:
        script_surroundings.prepare(file, manifest.folder)
    module = _imported(file, manifest.folder)
    facts = Facts(manifest.name, str(manifest.folder), 0 if options.device else None)
    own = {name: function for name in NAMES if callable(function := getattr(module, name, None))}
    batched = manifest.batched_handler or getattr(module, "PREDICT_TAKES_BATCH", False) is True
    where = _relative(file, manifest.folder)
    if "transform_fn" in own and own.keys() & {"input_fn", "predict_fn", "output_fn"}:
        raise BadModel(f"{where}: transform_fn does it all; remove it or input_fn, predict_fn and output_fn")
    if batched and "predict_fn" not in own:
        raise BadModel(f"{where}: a batched handler needs its own predict_fn(list_of_inputs, model)")
    calls = {name: _call(name, function, NAMES[name], where) for name, function in own.items()}
    model = _made(calls, facts)
    asks = any(_takes_context(own[name], NAMES[name], where) for name in own.keys() & PER_REQUEST)
    return HandlerBackend(_script(calls, model, facts, asks, _toolkit(manifest, options)), model, batched)


def _toolkit(manifest: Manifest, options: LoadOptions) -> str:
    """Whose defaults stand in for an input_fn."""
    if manifest.toolkit or not (options.hugging_face or hugging_face.is_such_a_folder(manifest.folder)):
        return manifest.toolkit
    return hugging_face.TOOLKIT


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

    @property
    def reads_itself(self) -> bool:
        """Whether the script has a function of its own for bodies."""
        return self.transform_fn is not None or "input_fn" in self.own

    @property
    def answers(self) -> str:
        """The function whose result is the answer, for messages."""
        if self.transform_fn is not None:
            return "transform_fn"
        return next((name for name in ("output_fn", "predict_fn") if name in self.own), "the model")


def _script(calls: Mapping[str, Call], model: Any, facts: Facts, reads_headers: bool, inputs_of: str) -> Script:
    torch = torch_of(model)
    if torch is not None and "predict_fn" not in calls:
        model.eval()
    read = hugging_face.decoded_inputs if inputs_of == hugging_face.TOOLKIT else decoded
    answers = "predict_fn" if "predict_fn" in calls else "the model"
    defaults: dict[str, Call] = {
        "input_fn": lambda body, kind, context: guarded("input_fn", lambda: as_tensors(read(body, kind), torch)),
        "predict_fn": lambda data, model, context: guarded("the model", predicted, data, model, torch),
        "output_fn": lambda prediction, accept, context: judged(answers, prediction, encoded, prediction, accept),
    }
    input_fn, predict_fn, output_fn = (calls.get(name, default) for name, default in defaults.items())
    return Script(input_fn, predict_fn, output_fn, calls.get("transform_fn"), frozenset(calls), facts, reads_headers)


def _call(name: str, function: Callable[..., Any], count: int, where: str) -> Call:
    """Gives the function a context if it takes one, and turns whatever it raises into one of our errors."""
    takes = _takes_context(function, count, f"{where}: {name}")

    def call(*arguments: Any, context: Context) -> Any:
        if takes == "position":
            return guarded(name, function, *arguments, context)
        if takes == "name":
            return guarded(name, lambda: function(*arguments, context=context))
        return guarded(name, function, *arguments)

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


def _imported(file: Path, folder: Path) -> ModuleType:
    """The script as a module, its folder first on the path so that modules beside it can be imported.

    It goes by its file's name, as in the AWS containers: a pickle names its classes so, and a process that the script starts
    (joblib, a pool that spawns) imports it by that name from the path that it is given. Where another module has the name
    already (a script called json.py), it gets one of ours.
    """
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    name = file.stem if _is_free(file.stem) else MODULE_PREFIX + file.stem
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise BadModel(f"{file}: a handler must be a Python file, *.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _scripts.add(name)
    try:
        spec.loader.exec_module(module)
    except BaseException as e:
        raise BadModel(_import_failed(e, file, folder)) from e
    return module


def _is_free(name: str) -> bool:
    return name in _scripts or not (name in sys.modules or name in sys.stdlib_module_names)


def _import_failed(e: BaseException, file: Path, folder: Path) -> str:
    if issubclass(type(e), SyntaxError) and type(attribute(e, "filename")) is str:
        at = f"{_relative(Path(attribute(e, 'filename')), folder)}:{text_of(attribute(e, 'lineno'))}"
        return f"{at}: SyntaxError: {text_of(attribute(e, 'msg'))}"
    advice = "; install it in the image, or set EVENKEEL_INSTALL_REQUIREMENTS=1 for code/requirements.txt at start"
    return f"{_frame(e, file, folder)}: import failed: {said(e)}{advice if type(e) is ModuleNotFoundError else ''}"


def _frame(e: BaseException, file: Path, folder: Path) -> str:
    """The last line of the user's own files that the exception went through."""
    frames = [f for f in frames_of(e) if Path(f.filename).is_relative_to(folder)]
    return f"{_relative(Path(frames[-1].filename), folder)}:{frames[-1].lineno}" if frames else _relative(file, folder)


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


# One request ----------------------------------------------------------------------------------------------------------


def _read(request: RawRequest, reads_itself: bool) -> tuple[str | bytes, str]:
    """The body as the script expects it, and its bare type: scripts compare it with ==, so parameters go. The default input_fn
    wants them."""
    content_type = _type_for_script(request.content_type)
    if content_type not in TEXT:
        return request.body, content_type
    return text_of_body(request.body, request.content_type), content_type if reads_itself else request.content_type or JSON


@lru_cache(TYPES_REMEMBERED)  # a head has at most 64 KiB
def _type_for_script(content_type: str) -> str:
    kind = content_type.partition(";")[0].strip().lower() or JSON
    return kind if kind in TEXT else content_type.strip()


def _wanted(request: RawRequest) -> str:
    """Accept as the client sent it; scripts compare it with ==, so anything goes becomes JSON."""
    accept = request.accept.strip()
    return JSON if accept in ("", "*/*") else accept
