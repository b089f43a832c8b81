"""What a handler does where the script has no function of its own: read, predict and write, as the AWS containers do.

Bodies become arrays (tensors for a torch module), a model is called or asked to predict, and what it gives becomes
JSON, CSV or NPY. Never unpickles. Imports no framework: it meets torch only where the script has brought it in.
"""

from __future__ import annotations

import io
import json
import math
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from evenkeel.serve.codec.decoded_size import ARRAY_BYTES_MAX, check_array
from evenkeel.serve.codec.npz import members_of, opened
from evenkeel.serve.engine.backends.base import Array
from evenkeel.serve.engine.backends.handler.handler_files import is_file
from evenkeel.serve.engine.foreign import kind_of, said, text_of
from evenkeel.serve.engine.script_guard import Unfit
from evenkeel.serve.errors import BadModel, BadRequest, NotAcceptable, OutputNotFinite, UnsupportedMedia

JSON, CSV, NPY, NPZ = "application/json", "text/csv", "application/x-npy", "application/x-npz"
BOM = "\ufeff"  # editors of Windows write it before a text; it is no part of it
TENSOR = "tensor/pt"  # NPY by another name, as the SageMaker SDK sends it
# RuntimeError: too deep, or a zip with a password. OverflowError: a size that no machine has.
UNREADABLE = (ValueError, OSError, EOFError, RuntimeError, OverflowError, zipfile.BadZipFile, zlib.error)
CHAR_BYTES, NUMBER_CHARS = 4, 32  # of numpy's texts; of a number that stands among texts


def first_type(accept: str) -> str:
    """The type of a reply whose script named none."""
    return next(iter(concrete_types(accept)), JSON)


def concrete_types(accept: str) -> list[str]:
    """The types that the client asks for by name."""
    return [kind for kind in _accepted(accept) if "*" not in kind]


def _accepted(accept: str) -> list[str]:
    return [part.partition(";")[0].strip().lower() for part in accept.split(",") if part.strip()]


# Model ----------------------------------------------------------------------------------------------------------------


def only_script(model_dir: str) -> Any:
    """One TorchScript file in the folder, as the PyTorch container has it. No pickle: only the script may load one."""
    files = sorted(p for p in Path(model_dir).iterdir() if p.suffix in (".pt", ".pth"))
    if len(files) != 1:
        names = "none" if not files else ", ".join(p.name for p in files)
        raise BadModel("the handler has no model_fn(model_dir) that loads the model, and without one there must be "
                       f"exactly one TorchScript .pt or .pth file in the model folder (found: {names})")  # fmt: skip
    # The only file that may import torch is that of its backend.
    from evenkeel.serve.engine.backends.pytorch.torch_program import load_script

    return load_script(files[0])


# Reading --------------------------------------------------------------------------------------------------------------


def decoded(body: str | bytes, content_type: str) -> Any:
    """Arrays from JSON, CSV, NPY and NPZ; other JSON (objects, strings) stays as Python has it."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in (JSON, CSV, NPY, NPZ, TENSOR):
        raise UnsupportedMedia(f"Content-Type {content_type!r}: without an input_fn of its own the handler reads "
                               f"{JSON}, {CSV}, {NPY}, {NPZ} and {TENSOR}")  # fmt: skip
    if not body:
        raise BadRequest("the body is empty")
    try:
        if kind == JSON:
            text = body if isinstance(body, str) else body.decode("utf-8")
            data = json.loads(text.removeprefix(BOM), parse_constant=_no_constant)
            if '"' in text and isinstance(data, list):
                _check_texts(data)
            return _floats(np.array(data)) if isinstance(data, list | int | float) else data
        if kind == CSV:
            text = body if isinstance(body, str) else body.decode("utf-8")
            return np.loadtxt(io.StringIO(text.removeprefix(BOM)), dtype=np.float32, delimiter=",", comments=None, ndmin=2)
        return _loaded(body if isinstance(body, bytes) else body.encode("latin-1"))
    except UNREADABLE as e:
        raise BadRequest(f"the body is not {kind} that becomes an array: {said(e)}") from e


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _floats(array: Array) -> Array:
    """Numbers as float32, as in the AWS containers; anything else (strings, true and false) as it is."""
    if array.dtype.kind not in "iuf":
        return array
    with np.errstate(over="ignore"):  # told below, where it concerns one request
        floats = array.astype(np.float32)
    if not np.isfinite(floats).all():  # JSON has no infinity, so this was a number
        raise BadRequest("a number is out of the range of float32")
    return floats


def _check_texts(data: Any) -> None:
    """In an array of numpy each text takes what the longest takes: one long among many short ones would fill the memory."""
    leaves = texts = longest = 0
    left = [data]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
            continue
        leaves += 1
        if isinstance(value, str):
            texts, longest = texts + 1, max(longest, len(value))
    chars = longest if texts == leaves else max(longest, NUMBER_CHARS)
    if texts:
        check_array(leaves * chars * CHAR_BYTES, "the array of texts, each as long as the longest,")


def _loaded(body: bytes) -> Any:
    if body[:2] != b"PK":
        return _array(body)
    with opened(body) as archive:
        return {name: _array(archive.read(member)) for name, member in members_of(archive, ARRAY_BYTES_MAX).items()}


def _array(body: bytes) -> Array:
    """numpy makes room for all that a header names before it reads on, so the header is held against what is there."""
    file, form = io.BytesIO(body), np.lib.format
    read_header = form.read_array_header_1_0 if form.read_magic(file) == (1, 0) else form.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if not dtype.hasobject and math.prod(shape) * max(dtype.itemsize, 1) > len(body) - file.tell():
        raise ValueError("the array is longer than the body")
    file.seek(0)
    return np.asarray(form.read_array(file, allow_pickle=False))


# Predicting -----------------------------------------------------------------------------------------------------------


def torch_of(model: Any) -> Any:
    """torch if the model is one of its modules, else None. Anyone who made such a model has imported torch."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(model, torch.nn.Module) else None


def as_tensors(data: Any, torch: Any) -> Any:
    if torch is None:
        return data
    if isinstance(data, dict):
        return {key: as_tensors(value, torch) for key, value in data.items()}
    return torch.from_numpy(data) if isinstance(data, np.ndarray) and data.dtype.kind in "biuf" else data


def predicted(data: Any, model: Any, torch: Any) -> Any:
    """A torch module is called, a scikit-learn estimator predicts, a Hugging Face pipeline takes its inputs."""
    if torch is not None:
        with torch.inference_mode():
            return model(**data) if isinstance(data, dict) else model(data)
    if hasattr(model, "predict"):
        return model.predict(data)
    if not callable(model):
        raise TypeError(f"a {kind_of(model)} has no predict(): the handler needs a predict_fn(data, model)")
    if isinstance(data, dict):
        inputs, parameters = data.pop("inputs", data), data.pop("parameters", None) or {}
        return model(inputs, **parameters)
    return model(data)


# Writing --------------------------------------------------------------------------------------------------------------


def encoded(prediction: Any, accept: str) -> Any:
    """The first type of Accept that we can write. An iterator stays one: it is streamed, record by record; and a file stays
    one: it is sent as it is."""
    if isinstance(prediction, Iterator) or is_file(prediction):
        return prediction
    if isinstance(prediction, bytes | bytearray | memoryview):
        return bytes(prediction), first_type(accept)
    for kind in _accepted(accept):
        if kind in (JSON, "application/*", "*/*"):
            return encoded_json(prediction), JSON
        if kind in (CSV, "text/*"):
            return _encoded_csv(prediction), CSV
        if kind == NPY:
            return _encoded_npy(prediction), NPY
    raise NotAcceptable(f"Accept {accept!r}: without an output_fn the handler writes {JSON}, {CSV} and {NPY}")


def encoded_json(value: Any) -> bytes:
    try:
        return _dumped(value, ascii_only=False).encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write but UTF-8 cannot
        return _dumped(value, ascii_only=True).encode("ascii")


def _dumped(value: Any, ascii_only: bool) -> str:
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=ascii_only, separators=(",", ":"), default=_plain)
    except ValueError as e:
        if "not JSON compliant" not in text_of(e):
            raise Unfit(f"it does not fit into JSON: {said(e)}") from e
        raise Unfit("it holds NaN or an infinity, which JSON cannot carry", OutputNotFinite) from e
    except (TypeError, RecursionError) as e:
        raise Unfit(f"it does not fit into JSON: {said(e)}") from e


def _plain(value: Any) -> Any:
    """Arrays, tensors and their scalars as Python lists and numbers; rows of a data frame likewise."""
    value = _untensored(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "to_dict"):
        return value.to_dict(orient="records")
    raise TypeError(f"{kind_of(value)} is not JSON")


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
        raise Unfit(f"it does not fit into CSV: {said(e)}") from e
    return text.getvalue().encode("utf-8", "replace")


def _encoded_npy(prediction: Any) -> bytes:
    held = io.BytesIO()
    try:
        np.save(held, np.asarray(_untensored(prediction)), allow_pickle=False)
    except ValueError as e:
        raise Unfit(f"it does not fit into NPY: {said(e)}") from e
    return held.getvalue()
