"""The digits model run directly, beside the server: rows, their right answers, and both in every wire format."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from tests.support.tree import ARTIFACTS

Array = np.ndarray[Any, Any]
MODEL = ARTIFACTS / "digits" / "model.onnx"


@cache
def session() -> Any:
    import os

    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])


def names() -> tuple[str, str]:
    """Of the input and of the output."""
    return session().get_inputs()[0].name, session().get_outputs()[0].name


def some_rows(random: np.random.Generator, count: int) -> Array:
    """Images like those the model knows, but no two alike: pixels in steps of 1/8."""
    pixels: Array = random.integers(0, 16 * 8, (count, 8, 8)) / 8
    return pixels.astype(np.float32)


def answers(rows: Array) -> Array:
    found: Array = session().run(None, {names()[0]: rows})[0]
    return found


def to_json(rows: Array) -> bytes:
    return json.dumps({"instances": rows.tolist()}).encode()


def to_lines(rows: Array) -> bytes:
    return "\n".join(json.dumps(row) for row in rows.tolist()).encode()


def to_csv(rows: Array) -> bytes:
    return "\n".join(",".join(map(str, row)) for row in rows.reshape(len(rows), -1).tolist()).encode()


def to_npy(rows: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, rows)
    return file.getvalue()


def to_npz(rows: Array, name: str | None = None) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **{name or names()[0]: rows})
    return file.getvalue()


def from_npz(body: bytes) -> Array:
    with np.load(io.BytesIO(body), allow_pickle=False) as archive:
        assert len(archive.files) == 1
        found: Array = archive[archive.files[0]]
        return found


def from_npy(body: bytes) -> Array:
    found: Array = np.load(io.BytesIO(body), allow_pickle=False)
    assert found.dtype == np.float32
    return found


def from_csv(body: bytes) -> Array:
    return np.array([[float(cell) for cell in line.split(b",")] for line in body.splitlines()])


def from_raw(columns: int) -> Callable[[bytes], Array]:
    return lambda body: np.frombuffer(body, "<f4").reshape(-1, columns)


def from_json(body: bytes) -> Array:
    return np.array(json.loads(body)["predictions"])


def from_lines(body: bytes) -> Array:
    return np.array([json.loads(line) for line in body.splitlines()])


ENCODE: dict[str, Callable[[Array], bytes]] = {
    "application/json": to_json, "application/jsonlines": to_lines, "text/csv": to_csv, "application/x-npy": to_npy,
    "application/x-npz": to_npz, "application/octet-stream": lambda rows: rows.tobytes(), "tensor/pt": to_npy,
}  # fmt: skip


def decode(content_type: str, body: bytes, columns: int = 10) -> Array:
    """An answer as an array. The content type must be exactly one of these: clients compare it as a whole."""
    table: dict[str, Callable[[bytes], Array]] = {
        "application/json": from_json, "application/jsonlines": from_lines, "text/csv": from_csv, "application/x-npy": from_npy,
        "application/x-npz": from_npz, "application/octet-stream": from_raw(columns), "tensor/pt": from_npy,
    }  # fmt: skip
    return table[content_type](body)


def close(got: Array, want: Array) -> bool:
    return got.shape == want.shape and bool(np.allclose(got, want, rtol=1e-4, atol=1e-6))
