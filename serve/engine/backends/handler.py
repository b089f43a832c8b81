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
import io
import json
import sys
import traceback
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from serve.contract.manifest import Manifest
from serve.engine.backends.base import Array, LoadOptions, RawReply, RawRequest
from serve.errors import (
    BadModel,
    BadRequest,
    EvenkeelError,
    ModelFailed,
    NotAcceptable,
    OutputNotFinite,
    UnsupportedMedia,
)

JSON, CSV, NPY, NPZ = "application/json", "text/csv", "application/x-npy", "application/x-npz"
TEXT = (JSON, CSV)  # these bodies reach input_fn as str
ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
MODULE_PREFIX = "evenkeel_handler_"
MESSAGE_CHARS_MAX = 1000
# A script may call sys.exit(), and a library may raise KeyboardInterrupt: neither may end an engine with other requests.
RAISED = (Exception, SystemExit, KeyboardInterrupt)


class HandlerBackend:
    def __init__(self, script: Script, model: Any, batched: bool) -> None:
        self._script, self._model, self._batched = script, model, batched

    def handle(self, requests: Sequence[RawRequest]) -> Sequence[RawReply | Exception]:
        if self._batched:
            return self._together(requests)
        return [self._alone(request) for request in requests]

    def describe(self) -> Mapping[str, Any]:
        return {"framework": f"python {sys.version.split()[0]}", "device": "up to the handler",
                "batched": self._batched, "functions": sorted(self._script.own)}  # fmt: skip

    def _alone(self, request: RawRequest) -> RawReply | Exception:
        context = Context(self._script.facts, [request])
        try:
            if self._script.transform_fn is not None:
                result = self._script.transform_fn(self._model, *_read(request), _wanted(request), context=context)
            else:
                data = self._script.input_fn(*_read(request), context=context)
                prediction = self._script.predict_fn(data, self._model, context=context)
                result = self._script.output_fn(prediction, _wanted(request), context=context)
            return _reply(result, _wanted(request), context, 0)
        except EvenkeelError as e:
            return e

    def _together(self, requests: Sequence[RawRequest]) -> list[RawReply | Exception]:
        """One predict_fn call for all requests whose input_fn took their bodies."""
        context = Context(self._script.facts, requests)
        replies: list[RawReply | Exception | None] = [None] * len(requests)
        read: list[tuple[int, Any]] = []
        for i, request in enumerate(requests):
            try:
                read.append((i, self._script.input_fn(*_read(request), context=context.of(i))))
            except EvenkeelError as e:
                replies[i] = e
        predictions = self._predict([data for _, data in read], context)
        for (i, _), prediction in zip(read, predictions, strict=True):
            replies[i] = self._encoded(prediction, requests[i], context, i)
        return [reply if reply is not None else ModelFailed("no reply was made") for reply in replies]

    def _predict(self, items: list[Any], context: Context) -> Sequence[Any]:
        """A prediction or an EvenkeelError for each item. When the batch raises, each item is tried alone."""
        if not items:
            return []
        try:
            return _counted(self._script.predict_fn(items, self._model, context=context), len(items))
        except WrongCount as e:
            return [e] * len(items)  # a bug of the script and no fault of an item: trying them alone would hide it
        except EvenkeelError as e:
            return [e] if len(items) == 1 else [self._predict([item], context)[0] for item in items]

    def _encoded(self, prediction: Any, request: RawRequest, context: Context, place: int) -> RawReply | Exception:
        if isinstance(prediction, EvenkeelError):
            return prediction
        try:
            result = self._script.output_fn(prediction, _wanted(request), context=context.of(place))
            return _reply(result, _wanted(request), context, place)
        except EvenkeelError as e:
            return e


class WrongCount(ModelFailed):
    """A batched predict_fn gave another number of predictions than it was given items."""


def _counted(predictions: Any, count: int) -> Sequence[Any]:
    if predictions is None or isinstance(predictions, str | bytes | Mapping) or not hasattr(predictions, "__len__"):
        raise WrongCount(f"predict_fn takes batches: it must return a list of {count} predictions, "
                         f"not {type(predictions).__name__}")  # fmt: skip
    if len(predictions) != count:
        raise WrongCount(f"predict_fn takes batches: it returned {len(predictions)} predictions for {count} requests")
    return [predictions[i] for i in range(count)]


# Loading --------------------------------------------------------------------------------------------------------------


def load(manifest: Manifest, options: LoadOptions) -> HandlerBackend:
    assert manifest.file is not None, "the manifest names a file for every backend but echo"
    module = _imported(manifest.file, manifest.folder)
    facts = Facts(manifest.name, str(manifest.folder))
    own = {name: function for name in NAMES if callable(function := getattr(module, name, None))}
    batched = manifest.batched_handler or getattr(module, "PREDICT_TAKES_BATCH", False) is True
    where = _relative(manifest.file, manifest.folder)
    if "transform_fn" in own and own.keys() & {"input_fn", "predict_fn", "output_fn"}:
        raise BadModel(f"{where}: transform_fn does it all; remove it or input_fn, predict_fn and output_fn")
    if batched and "predict_fn" not in own:
        raise BadModel(f"{where}: a batched handler needs its own predict_fn(list_of_inputs, model)")
    calls = {name: _call(function, NAMES[name], where) for name, function in own.items()}
    try:
        if "pre_model_fn" in calls:
            calls["pre_model_fn"](facts.model_dir, context=Context(facts, []))
        make = calls.get("model_fn", default_model_fn)
        model = make(facts.model_dir, context=Context(facts, []))
        if "model_warmup_fn" in calls:
            calls["model_warmup_fn"](facts.model_dir, model, context=Context(facts, []))
    except ModelFailed as e:
        raise BadModel(f"{_place(e.__cause__, manifest)}: {e.message}") from e.__cause__
    return HandlerBackend(_script(calls, model, facts), model, batched)


# What the toolkit calls, and with how many arguments before the context.
NAMES = {"model_fn": 1, "input_fn": 2, "predict_fn": 2, "output_fn": 2, "transform_fn": 4, "pre_model_fn": 1,
         "model_warmup_fn": 2}  # fmt: skip
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


@dataclass(frozen=True, slots=True)
class Facts:
    model_name: str
    model_dir: str


def _script(calls: Mapping[str, Call], model: Any, facts: Facts) -> Script:
    torch = _torch_of(model)
    if torch is not None and "predict_fn" not in calls and hasattr(model, "eval"):
        model.eval()

    def input_fn(body: str | bytes, content_type: str, context: Context) -> Any:
        return _as_tensors(decoded(body, content_type), torch)

    def predict_fn(data: Any, model: Any, context: Context) -> Any:
        return _guarded("the model", _predicted, data, model, torch)

    def output_fn(prediction: Any, accept: str, context: Context) -> Any:
        return encoded(prediction, accept)

    return Script(calls.get("input_fn", input_fn), calls.get("predict_fn", predict_fn), calls.get("output_fn", output_fn),
                  calls.get("transform_fn"), frozenset(calls), facts)  # fmt: skip


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
    parameters = list(inspect.signature(function).parameters.values())
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
        raise ModelFailed(f"{name} raised {_said(e)}") from e


def _said(e: BaseException) -> str:
    text = " ".join(str(e).split())
    text = f"{type(e).__name__}: {text}" if text else type(e).__name__
    return text if len(text) <= MESSAGE_CHARS_MAX else text[:MESSAGE_CHARS_MAX] + "…"


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
        raise BadModel(f"{_frame(e, file, folder)}: import failed: {_said(e)}") from e
    return module


def _place(e: BaseException | None, manifest: Manifest) -> str:
    assert manifest.file is not None, "a handler has a file"
    if e is None:
        return _relative(manifest.file, manifest.folder)
    return _frame(e, manifest.file, manifest.folder)


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


def _accepted(accept: str) -> list[str]:
    return [part.partition(";")[0].strip().lower() for part in accept.split(",") if part.strip()]


def _reply(result: Any, accept: str, context: Context, place: int) -> RawReply:
    """What output_fn or transform_fn may return: str, bytes, (body, content type), a response object as Flask has it
    or anything that fits into JSON."""
    code, phrase = context.status(place)
    content_type = context.reply_headers(place).get("content-type") or _first_type(accept)
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], str):
        result, content_type = result
    elif hasattr(result, "mimetype") or hasattr(result, "media_type"):
        content_type = getattr(result, "mimetype", None) or getattr(result, "media_type", None) or content_type
        code = _status_of(result, code)
        result = _body_of(result)
    if result is None:
        raise ModelFailed("the handler returned None: does output_fn or transform_fn lack a return?")
    if isinstance(result, str):
        body = result.encode("utf-8")
    elif isinstance(result, bytes | bytearray | memoryview):
        body = bytes(result)
    else:
        body, content_type = encoded_json(result).encode("utf-8"), JSON
    if code >= 400:
        text = phrase or body.decode("utf-8", "replace")[:MESSAGE_CHARS_MAX]
        raise BadRequest(text) if code < 500 else ModelFailed(text)
    return RawReply(body, content_type, context.reply_headers(place).get(ATTRIBUTES))


def _first_type(accept: str) -> str:
    return next((kind for kind in _accepted(accept) if "*" not in kind), JSON)


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


class Context:
    """What a handler can ask about its request and say about its reply, as in the servers that AWS uses.

    One object for the requests of a call: `idx` is the place in it, always 0 unless predict_fn takes batches.
    """

    def __init__(self, facts: Facts, requests: Sequence[RawRequest]) -> None:
        self.model_name = facts.model_name
        self.manifest: Mapping[str, Any] = {}
        self.metrics = NoMetrics()
        self.system_properties: Mapping[str, Any] = {
            "model_dir": facts.model_dir, "gpu_id": None, "batch_size": max(1, len(requests)), "server_name": "evenkeel"}  # fmt: skip
        self.request_ids = {i: request.request_id for i, request in enumerate(requests)}
        self.request_processor = [Processor(request) for request in requests]

    def of(self, place: int) -> Context:
        """The context of one request of a batch; what it says of its reply is kept in both."""
        own = object.__new__(Context)
        own.__dict__.update(self.__dict__)
        own.request_ids = {0: self.request_ids[place]}
        own.request_processor = [self.request_processor[place]]
        return own

    @property
    def request_id(self) -> str | None:
        return self.request_ids.get(0)

    def get_request_id(self, idx: int | None = 0) -> str | None:
        return self.request_ids.get(idx or 0)

    def get_request_header(self, idx: int | None, key: str) -> str | None:
        return self.request_processor[idx or 0].get_request_property(key)

    def get_all_request_header(self, idx: int | None = 0) -> Mapping[str, str]:
        return self.request_processor[idx or 0].get_request_properties()

    def set_response_header(self, idx: int | None, key: str, value: str) -> None:
        """Kept of these: Content-Type and X-Amzn-SageMaker-Custom-Attributes. No other passes SageMaker's router."""
        self.request_processor[idx or 0].add_response_property(key, value)

    def set_response_content_type(self, idx: int | None, value: str) -> None:
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int | None = 0) -> str | None:
        return self.get_response_headers(idx).get("content-type")

    def get_response_headers(self, idx: int | None = 0) -> Mapping[str, str]:
        return self.request_processor[idx or 0].headers

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int | None = 0) -> None:
        self.request_processor[idx or 0].report_status(code, phrase)

    def status(self, place: int) -> tuple[int, str]:
        processor = self.request_processor[place]
        return processor.code, processor.phrase

    def reply_headers(self, place: int) -> Mapping[str, str]:
        return self.request_processor[place].headers


class Processor:
    """One request and its reply under the names of the model servers' RequestProcessor."""

    def __init__(self, request: RawRequest) -> None:
        sent = {"content-type": request.content_type, "accept": request.accept}
        self._properties = Headers({**{k: v for k, v in sent.items() if v}, **request.headers})
        self.headers: dict[str, str] = {}
        self.code, self.phrase = 200, ""

    def get_request_property(self, key: str) -> str | None:
        return self._properties.get(key)

    def get_request_properties(self) -> Mapping[str, str]:
        return self._properties

    def add_response_property(self, key: str, value: str) -> None:
        self.headers[key.lower()] = value

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        self.code, self.phrase = code, reason_phrase or ""


class Headers(dict[str, str]):
    """Headers by lower-case name, found under any spelling."""

    def __getitem__(self, key: str) -> str:
        return super().__getitem__(key.lower())

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and super().__contains__(key.lower())

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key.lower(), default)


class NoMetrics:
    """Takes `context.metrics.add_counter(...)` and its like, and forgets them."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


# Defaults for the functions a script leaves out -------------------------------------------------------------------------


def default_model_fn(model_dir: str, context: Context) -> Any:
    """One TorchScript file in the folder, as the PyTorch container has it. No pickle: only the script may load one."""
    files = sorted(p for p in Path(model_dir).iterdir() if p.suffix in (".pt", ".pth"))
    if len(files) != 1:
        found = "none" if not files else ", ".join(p.name for p in files)
        raise BadModel("the handler has no model_fn(model_dir) that loads the model, and without one there must be exactly "
                       f"one TorchScript .pt or .pth file in the model folder (found: {found})")  # fmt: skip
    # The only file that may import torch is that of its backend.
    from serve.engine.backends.pytorch import load_script

    return load_script(files[0])


def decoded(body: str | bytes, content_type: str) -> Any:
    """Arrays from JSON, CSV, NPY and NPZ; other JSON (objects, strings) stays as Python has it."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in (JSON, CSV, NPY, NPZ):
        raise UnsupportedMedia(f"Content-Type {content_type!r}: without an input_fn of its own the handler reads "
                               f"{JSON}, {CSV}, {NPY} and {NPZ}")  # fmt: skip
    if not body:
        raise BadRequest("the body is empty")
    try:
        if kind == JSON:
            data = json.loads(body, parse_constant=_no_constant)
            return _floats(np.array(data)) if isinstance(data, list | int | float) else data
        if kind == CSV:
            text = body if isinstance(body, str) else body.decode("utf-8")
            return np.loadtxt(io.StringIO(text), dtype=np.float32, delimiter=",", comments=None, ndmin=2)
        return _loaded(body if isinstance(body, bytes) else body.encode("latin-1"))
    except (ValueError, OSError, EOFError, RecursionError, zipfile.BadZipFile) as e:  # UnicodeDecodeError is a ValueError
        raise BadRequest(f"the body is not {kind} that becomes an array: {_said(e)}") from e


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _floats(array: Array) -> Array:
    """Numbers as float32, as in the AWS containers; anything else (strings, true and false) as it is."""
    return array.astype(np.float32) if array.dtype.kind in "iuf" else array


def _loaded(body: bytes) -> Any:
    loaded = np.load(io.BytesIO(body), allow_pickle=False)
    return {name: loaded[name] for name in loaded.files} if hasattr(loaded, "files") else loaded


def _torch_of(model: Any) -> Any:
    """torch if the model is one of its modules, else None. Whoever made such a model has imported torch."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(model, torch.nn.Module) else None


def _as_tensors(data: Any, torch: Any) -> Any:
    if torch is None:
        return data
    if isinstance(data, dict):
        return {key: _as_tensors(value, torch) for key, value in data.items()}
    return torch.from_numpy(data) if isinstance(data, np.ndarray) and data.dtype.kind in "biuf" else data


def _predicted(data: Any, model: Any, torch: Any) -> Any:
    """A torch module is called, a scikit-learn estimator predicts, a Hugging Face pipeline takes its inputs."""
    if torch is not None:
        with torch.inference_mode():
            return model(**data) if isinstance(data, dict) else model(data)
    if hasattr(model, "predict"):
        return model.predict(data)
    if not callable(model):
        raise TypeError(f"the model, a {type(model).__name__}, has no predict(): the handler needs a predict_fn(data, model)")
    if isinstance(data, dict):
        inputs, parameters = data.pop("inputs", data), data.pop("parameters", None) or {}
        return model(inputs, **parameters)
    return model(data)


def encoded(prediction: Any, accept: str) -> tuple[bytes, str]:
    """The first type of Accept that we can write."""
    if isinstance(prediction, bytes | bytearray | memoryview):
        return bytes(prediction), _first_type(accept)
    for kind in _accepted(accept):
        if kind in (JSON, "application/*", "*/*"):
            return encoded_json(prediction).encode("utf-8"), JSON
        if kind in (CSV, "text/*"):
            return _encoded_csv(prediction), CSV
        if kind == NPY:
            return _encoded_npy(prediction), NPY
    raise NotAcceptable(f"Accept {accept!r}: without an output_fn of its own the handler writes {JSON}, {CSV} and {NPY}")


def encoded_json(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_plain)
    except ValueError as e:
        if "not JSON compliant" not in str(e):
            raise ModelFailed(f"the prediction does not fit into JSON: {e}") from e
        raise OutputNotFinite("the prediction holds NaN or an infinity, which JSON cannot carry") from e
    except (TypeError, RecursionError) as e:
        raise ModelFailed(f"the prediction does not fit into JSON: {_said(e)}") from e


def _plain(value: Any) -> Any:
    """Arrays, tensors and their scalars as Python lists and numbers; rows of a data frame likewise."""
    value = _untensored(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "to_dict"):
        return value.to_dict(orient="records")
    raise TypeError(f"{type(value).__name__} is not JSON")


def _untensored(value: Any) -> Any:
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        return value
    value = value.detach().cpu()
    return (value.float() if value.dtype is torch.bfloat16 else value).numpy()


def _encoded_csv(prediction: Any) -> bytes:
    text = io.StringIO()
    try:
        np.savetxt(text, np.atleast_1d(np.asarray(_untensored(prediction))), delimiter=",", fmt="%s")
    except (ValueError, TypeError) as e:
        raise ModelFailed(f"the prediction does not fit into CSV: {_said(e)}") from e
    return text.getvalue().encode("utf-8")


def _encoded_npy(prediction: Any) -> bytes:
    held = io.BytesIO()
    try:
        np.save(held, np.asarray(_untensored(prediction)), allow_pickle=False)
    except ValueError as e:
        raise ModelFailed(f"the prediction does not fit into NPY: {_said(e)}") from e
    return held.getvalue()
