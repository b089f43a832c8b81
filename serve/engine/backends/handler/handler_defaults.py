"""What a handler does where the script has no function of its own: read, predict and write, as the AWS containers do.

Bodies become arrays (tensors for a torch module), a model is called or asked to predict, and what it gives becomes
JSON, JSON Lines, CSV, NPY or NPZ. Text is handler_text.py's, what Hugging Face models get hugging_face.py's. Never
unpickles. Imports no framework: it meets torch only where the script has brought it in.
"""

from __future__ import annotations

import base64
import datetime
import io
import json
import math
import sys
import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from evenkeel.serve.codec.decoded_size import ARRAY_BYTES_MAX, check_array
from evenkeel.serve.codec.npz import members_of, opened
from evenkeel.serve.engine.backends.base import Array
from evenkeel.serve.engine.backends.handler.handler_files import is_file
from evenkeel.serve.engine.backends.handler.handler_text import BOM, csv_of, csv_table, has_header, rows_of, text_of_body
from evenkeel.serve.engine.foreign import kind_of, said, text_of
from evenkeel.serve.engine.script_guard import Unfit
from evenkeel.serve.errors import BadModel, BadRequest, NotAcceptable, OutputNotFinite, UnsupportedMedia

JSON, CSV, NPY, NPZ = "application/json", "text/csv", "application/x-npy", "application/x-npz"
LINES = ("application/jsonlines", "application/jsons", "application/x-jsonlines", "application/x-ndjson")
READ = (JSON, CSV, NPY, NPZ)  # for a message; so are LINES and TENSOR
WRAPPERS = ("instances", "inputs")  # around the rows, as tensors have them
TENSOR = "tensor/pt"  # NPY by another name, as the SageMaker SDK sends it
# RuntimeError: too deep, or a zip with a password. OverflowError: a size that no machine has.
UNREADABLE = (ValueError, OSError, EOFError, RuntimeError, OverflowError, zipfile.BadZipFile, zlib.error)
CHAR_BYTES, NUMBER_CHARS = 4, 32  # of numpy's texts; of a number that stands among texts


@lru_cache(16)  # a head has at most 64 KiB
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
    files = sorted(p for p in Path(model_dir).iterdir() if p.suffix in (".pt", ".pth") and not p.name.startswith("."))
    if len(files) != 1:
        names = "none" if not files else ", ".join(p.name for p in files)
        raise BadModel("the handler has no model_fn(model_dir) that loads the model, and without one there must be "
                       f"exactly one TorchScript .pt or .pth file in the model folder (found: {names})")  # fmt: skip
    # The only file that may import torch is that of its backend.
    from evenkeel.serve.engine.backends.pytorch.torch_program import load_script

    return load_script(files[0])


# Reading --------------------------------------------------------------------------------------------------------------


def decoded(body: str | bytes, content_type: str) -> Any:
    """Arrays from JSON, JSON Lines, CSV, NPY and NPZ; other JSON (objects, strings) stays as Python has it."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in (*READ, *LINES, TENSOR):
        raise UnsupportedMedia(f"Content-Type {content_type!r}: without an input_fn of its own the handler reads "
                               f"{', '.join(READ)}, {LINES[0]} and {TENSOR}{_hint(kind)}")  # fmt: skip
    if not body:
        raise BadRequest("the body is empty")
    try:
        if kind == JSON:
            text = body if isinstance(body, str) else body.decode("utf-8")
            return _arrayed(json.loads(text.removeprefix(BOM), parse_constant=_constant), '"' in text)
        if kind in LINES:
            text = body if isinstance(body, str) else text_of_body(body, content_type)
            lines = [json.loads(line, parse_constant=_constant) for line in text.removeprefix(BOM).split("\n") if line.strip()]
            plain = not any(isinstance(line, dict | str) for line in lines)
            return _arrayed(lines, '"' in text) if plain else lines
        if kind == CSV:
            return csv_table(body if isinstance(body, str) else text_of_body(body, content_type), has_header(content_type))
        return _loaded(body if isinstance(body, bytes) else body.encode("latin-1"))
    except UNREADABLE as e:
        raise BadRequest(f"the body is not {kind} that becomes an array: {said(e)}") from e


def _hint(kind: str) -> str:
    if not kind.startswith(("image/", "audio/")):
        return ""
    return '; a Hugging Face model reads it with [handler] toolkit = "huggingface" in model.toml'


def _constant(name: str) -> float:
    """NaN is a missing value, which Python's json writes so. An infinity is none."""
    if name == "NaN":
        return math.nan
    raise ValueError(f"{name} is not JSON")


def _arrayed(data: Any, has_texts: bool) -> Any:
    if has_texts and isinstance(data, list):
        _check_texts(data)
    return _floats(np.array(data)) if isinstance(data, list | int | float) else data


def rows_within(data: Any) -> Any:
    """For a model that takes no names: the rows of {"instances": rows} or {"inputs": rows}, as an array."""
    if isinstance(data, dict) and len(data) == 1 and (name := next(iter(data))) in WRAPPERS and isinstance(data[name], list):
        return _arrayed(data[name], True)
    return data


def _floats(array: Array) -> Array:
    """Numbers as float32, as in the AWS containers; anything else (strings, true and false) as it is."""
    if array.dtype.kind not in "iuf":
        return array
    with np.errstate(over="ignore"):  # told below, where it concerns one request
        floats = array.astype(np.float32)
    if np.isinf(floats).any():  # JSON has no infinity, so this was a number
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
    array = np.asarray(form.read_array(file, allow_pickle=False))
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))  # torch takes no other order


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
        return model.predict(rows_within(data))
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
        if kind in LINES:
            return b"".join(encoded_json(row) + b"\n" for row in rows_of(_tabled(prediction))), kind
        if kind in (CSV, "text/*"):
            return csv_of(_tabled(prediction)), CSV
        if kind in (NPY, NPZ):
            return _encoded_arrays(prediction, kind), kind
    raise NotAcceptable(f"Accept {accept!r}: without an output_fn the handler writes {', '.join(READ)} and {LINES[0]}")


def _tabled(value: Any) -> Any:
    """Tensors as arrays, data frames as records."""
    value = _untensored(value)
    return value.to_dict(orient="records") if hasattr(value, "to_dict") else value


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
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if _is_image(value):
        held = io.BytesIO()
        value.save(held, format="PNG")
        return base64.b64encode(held.getvalue()).decode("ascii")
    raise TypeError(f"{kind_of(value)} is not JSON")


def _is_image(value: Any) -> bool:
    images = sys.modules.get("PIL.Image")
    return images is not None and isinstance(value, images.Image)


def _untensored(value: Any) -> Any:
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        return value
    value = value.detach().cpu()
    return (value.float() if value.dtype is torch.bfloat16 else value).numpy()


def _encoded_arrays(prediction: Any, kind: str) -> bytes:
    held = io.BytesIO()
    given = prediction if isinstance(prediction, dict) and kind == NPZ else {"arr_0": prediction}
    arrays = {str(name): np.asarray(_untensored(value)) for name, value in given.items()}
    try:
        if any(array.dtype.hasobject for array in arrays.values()):
            raise ValueError("Object arrays cannot be saved when allow_pickle=False")
        if kind == NPZ:
            np.savez(held, **arrays)  # type: ignore[arg-type]  # a name like "file" is refused below
        else:
            np.save(held, arrays["arr_0"], allow_pickle=False)
    except (ValueError, TypeError) as e:
        raise Unfit(f"it does not fit into {'NPZ' if kind == NPZ else 'NPY'}: {said(e)}") from e
    return held.getvalue()
