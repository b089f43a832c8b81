"""What ONNX Runtime says of tensors, files and runs: in our words, and for the people who serve them. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from evenkeel.serve.engine.backends.model_shapes import Found
from evenkeel.serve.engine.backends.trial_runs import Dim
from evenkeel.serve.engine.foreign import text_of
from evenkeel.serve.errors import BadModel

DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16", "tensor(bool)": "bool", "tensor(string)": "string",
    **{f"tensor({name})": name for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")},
}  # fmt: skip
MESSAGE_CHARS_MAX = 400


def found(node: Any, shape: tuple[Dim, ...] | None) -> Found:
    return Found(node.name, DTYPES.get(node.type, node.type), shape)


def refuse_unknown(tensor: Found, file: str) -> None:
    if tensor.dtype in DTYPES.values():
        return
    if tensor.dtype.startswith("seq(map"):
        todo = "convert the classifier with options={'zipmap': False}, so that it gives a plain tensor"
    else:
        todo = "only plain tensors can be served; change the model, or name the other outputs in [[outputs]]"
    raise BadModel(f"{file}: {tensor.name!r} has type {tensor.dtype}: {todo}")


def refuse_mixture(tensors: Sequence[Found], inputs: set[str], file: str) -> None:
    """bfloat16 travels by OrtValues, which onnxruntime's Python interface cannot make from strings."""
    narrow = next((f.name for f in tensors if f.dtype == "bfloat16"), None)
    text = next((f.name for f in tensors if f.dtype == "string" and f.name in inputs), None)
    if narrow is not None and text is not None:
        raise BadModel(f"{file}: {narrow!r} is bfloat16 and the input {text!r} holds strings, which onnxruntime cannot take "
                       f"together: let the model cast {narrow!r} from or to float32")  # fmt: skip


def short(e: Exception) -> str:
    """One line without the runtime's source paths and C++ signatures."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(text_of(e).split()))
    text = re.sub(r"/onnxruntime_src/\S+:\d+ .*?\)>?(?: \[with [^\]]*\])? (?=[A-Z])", "", text)
    text = re.sub(r"Load model from \S+ failed: ?|Exception during \w+: ", "", text).strip()
    return text if len(text) <= MESSAGE_CHARS_MAX else text[:MESSAGE_CHARS_MAX] + "…"


def advice(message: str, version: str) -> str:
    if "protobuf parsing failed" in message.lower() or "No graph was found" in message:
        return "; it is not an ONNX file or it is cut short: compare its size and checksum with the original"
    if "opset" in message.lower() or "IR version" in message:
        return f"; export the model with a lower opset, or use an image with a newer onnxruntime than {version}"
    if "is not a registered function/op" in message or "No Op registered" in message:
        return "; the model uses operators that onnxruntime alone does not have"
    if "external data" in message.lower() or ".data" in message:
        return "; a model in several files needs all of them in the model folder"
    return ""
