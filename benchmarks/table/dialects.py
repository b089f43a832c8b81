"""How a sample is asked of a server, and how its answer is read. Pure: bytes from values, values from bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from benchmarks.models import Array, digits, instances
from benchmarks.table.bodies import Value, is_array
from benchmarks.table.workloads import CSV, JSON, NPY, PICTURE

MIME = {JSON: "application/json", NPY: "application/x-npy", CSV: "text/csv", PICTURE: "image/jpeg"}


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Dialect(Protocol):
    wires: tuple[str, ...]

    def request(self, wire: str, value: Value) -> Request: ...

    def answer(self, wire: str, headers: Mapping[str, str], body: bytes) -> Value: ...


@dataclass(frozen=True, slots=True)
class Plain:
    """{"instances": …} and {"predictions": …}, an NPY file, lines of CSV, or the bytes themselves."""

    path: str
    wires = (JSON, NPY, CSV, PICTURE)

    def request(self, wire: str, value: Value) -> Request:
        return Request("POST", self.path, {"Content-Type": MIME[wire]}, _body(wire, value))

    def answer(self, wire: str, headers: Mapping[str, str], body: bytes) -> Value:
        if wire == NPY:
            rows: Array = np.load(io.BytesIO(body), allow_pickle=False)
            return rows
        if wire == CSV:
            return np.loadtxt(io.BytesIO(body), np.float64, delimiter=",", ndmin=2)
        told = json.loads(body)
        return told if wire == PICTURE else _listed(told["predictions"])


def _body(wire: str, value: Value) -> bytes:
    if is_array(value):
        return {JSON: instances, NPY: npy, CSV: csv}[wire](value)
    return value if isinstance(value, bytes) else json.dumps({"instances": value}).encode()


def _listed(found: list[object]) -> Value:
    return [str(text) for text in found] if found and isinstance(found[0], str) else np.array(found)


class Triton:
    """The v2 protocol: tensors as JSON, or as bytes behind a JSON header (here in NPY's place). It has no CSV."""

    wires = (JSON, NPY, PICTURE)

    def request(self, wire: str, value: Value) -> Request:
        if wire == JSON:
            shape, kind, data = (value.shape, "FP32", digits(value.reshape(-1))) if is_array(value) else _texts(value)
            tensor = {"name": "x", "shape": list(shape), "datatype": kind, "data": data}
            return Request("POST", TRITON_PATH, {"Content-Type": MIME[JSON]}, json.dumps({"inputs": [tensor]}).encode())
        if is_array(value):
            return _binary(list(value.shape), "FP32", value.tobytes())
        assert isinstance(value, bytes), "a picture is bytes"
        return _binary([1, 1], "BYTES", len(value).to_bytes(4, "little") + value)

    def answer(self, wire: str, headers: Mapping[str, str], body: bytes) -> Value:
        head = int(headers.get("inference-header-content-length", len(body)))
        output = json.loads(body[:head])["outputs"][0]
        if output["datatype"] == "BYTES":
            return [str(text) for text in output["data"]]
        if wire == JSON:
            return np.array(output["data"]).reshape(output["shape"])
        if wire == PICTURE:
            size, check = np.frombuffer(body[head:], np.int64).tolist()
            return {"bytes": size, "check": check}
        return np.frombuffer(body[head:], np.float32).reshape(output["shape"])


TRITON_PATH = "/v2/models/m/infer"


def _texts(value: object) -> tuple[tuple[int, ...], str, list[object]]:
    assert isinstance(value, list), "what is no array is a list of texts here"
    return (len(value), 1), "BYTES", value


def _binary(shape: list[int], kind: str, data: bytes) -> Request:
    tensor = {"name": "x", "shape": shape, "datatype": kind, "parameters": {"binary_data_size": len(data)}}
    outputs = [{"name": "y", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return Request("POST", TRITON_PATH, headers, head + data)


def npy(rows: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, rows)
    return file.getvalue()


def csv(rows: Array) -> bytes:
    return "".join(",".join(f"{v}" for v in row) + "\n" for row in rows.astype(np.float64).round(6)).encode()
