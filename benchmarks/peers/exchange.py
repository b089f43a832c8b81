"""What the peers' servers share: bodies in, the model or the work of a handler over a batch, answers out, as fast as we know how.

Runs inside the peers' own environments, so it knows numpy, msgspec and onnxruntime, and nothing of evenkeel. Everything comes
from the environment: BENCH_MODEL, BENCH_WIRE, BENCH_MODEL_DIR, BENCH_THREADS, BENCH_ROWS_MAX, BENCH_WAIT_MS, BENCH_PORT.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import work

MIME = {"json": "application/json", "npy": "application/x-npy", "csv": "text/csv", "picture": "application/json"}
HANDLERS = ("table", "together", "texts", "picture", "tensor")


@dataclass(frozen=True)
class Settings:
    model: str
    wire: str
    model_dir: Path
    threads: int
    rows_max: int
    wait_ms: int
    port: int


def settings() -> Settings:
    env = os.environ
    return Settings(
        model=env["BENCH_MODEL"],
        wire=env["BENCH_WIRE"],
        model_dir=Path(env["BENCH_MODEL_DIR"]),
        threads=int(env["BENCH_THREADS"]),
        rows_max=int(env["BENCH_ROWS_MAX"]),
        wait_ms=int(env["BENCH_WAIT_MS"]),
        port=int(env["BENCH_PORT"]),
    )


class OnnxModel:
    """An ONNX Runtime session without spinning threads: they would take the front's core away."""

    def __init__(self, s: Settings) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = s.threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = str(s.model_dir / "model.onnx")
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.row_shape = tuple(self._session.get_inputs()[0].shape[1:])
        self.answer_shape = tuple(self._session.get_outputs()[0].shape[1:])

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return self._session.run(None, {"x": rows})[0]


class Exchange:
    """One model in one wire format: `decode` each body, `run` a batch of what they hold, `encode` each answer."""

    def __init__(self, s: Settings) -> None:
        self.mime = MIME[s.wire]
        self._npy_headers: dict[tuple[int, ...], bytes] = {}
        self._json = msgspec.json.Decoder()
        self.onnx = None if s.model in HANDLERS else OnnxModel(s)
        self._row = self.onnx.row_shape if self.onnx else {"tensor": (3, 224, 224)}.get(s.model, (work.COLUMNS,))
        self.decode, self.encode = {
            "json": (lambda body: self.parsed(self._json.decode(body)), self._predictions),
            "npy": (self._from_npy, self._to_npy),
            "csv": (self._from_csv, self._to_csv),
            "picture": (bytes, msgspec.json.encode),
        }[s.wire]
        self._texts = s.model == "texts"
        self.run = self._runner(s.model)

    def _runner(self, model: str) -> Callable[[list], list]:
        each = {"table": work.predict, "picture": work.describe, "texts": lambda texts: [work.tag(t) for t in texts]}.get(model)
        if each:
            return lambda items: [each(item) for item in items]
        whole = self.onnx or {"together": work.predict, "tensor": work.average}[model]
        return lambda items: split(whole(np.concatenate(items) if len(items) > 1 else items[0]), [len(x) for x in items])

    def parsed(self, body: dict) -> object:
        """What a JSON body holds, once something has parsed it."""
        return body["instances"] if self._texts else np.array(body["instances"], np.float32)

    def _predictions(self, answer: object) -> bytes:
        return msgspec.json.encode({"predictions": answer if self._texts else answer.tolist()})

    def _from_npy(self, body: bytes) -> np.ndarray:
        """Version 1 of the format, trusting the client: 20 times faster than np.load."""
        return np.frombuffer(body, np.float32, offset=10 + (body[8] | body[9] << 8)).reshape(-1, *self._row)

    def _to_npy(self, answer: np.ndarray) -> bytes:
        """np.save takes 19 us for a header that is the same for every answer of a shape, so each is made once."""
        header = self._npy_headers.get(answer.shape)
        if header is None:
            file = io.BytesIO()
            np.save(file, np.zeros(answer.shape, np.float32))
            header = self._npy_headers[answer.shape] = file.getvalue()[: -4 * answer.size]
        return header + answer.tobytes()

    def _from_csv(self, body: bytes) -> np.ndarray:
        body = bytes(body)  # Mosec's is a bytearray, whose parts numpy would take for sequences
        return np.array(body.strip().replace(b"\n", b",").split(b","), np.float32).reshape(-1, *self._row)

    def _to_csv(self, answer: np.ndarray) -> bytes:
        return "".join(",".join(map(repr, row)) + "\n" for row in answer.tolist()).encode()


def split(answers: np.ndarray, lengths: list[int]) -> list[np.ndarray]:
    if len(answers) == len(lengths):
        return [answers[i : i + 1] for i in range(len(lengths))]
    ends = np.cumsum(lengths)
    return [answers[end - length : end] for end, length in zip(ends, lengths, strict=True)]
