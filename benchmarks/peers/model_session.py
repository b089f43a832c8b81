"""What the peer servers share: the model, opened as well as we know how, and the fastest codecs for its one row.

Runs inside the peers' own environments, so it knows numpy and onnxruntime and nothing of evenkeel. Everything comes
from the environment: BENCH_MODEL_DIR, BENCH_THREADS, BENCH_ROWS_MAX, BENCH_WAIT_MS, BENCH_PORT.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort


@dataclass(frozen=True)
class Settings:
    model_dir: Path
    threads: int
    rows_max: int
    wait_ms: int
    port: int


def settings() -> Settings:
    env = os.environ
    return Settings(
        model_dir=Path(env["BENCH_MODEL_DIR"]),
        threads=int(env["BENCH_THREADS"]),
        rows_max=int(env["BENCH_ROWS_MAX"]),
        wait_ms=int(env["BENCH_WAIT_MS"]),
        port=int(env["BENCH_PORT"]),
    )


class Model:
    """An ONNX Runtime session without spinning threads: they would take the front's core away."""

    def __init__(self, s: Settings) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = s.threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = str(s.model_dir / "model.onnx")
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.row_shape = tuple(self._session.get_inputs()[0].shape[1:])
        self.answer_shape = tuple(self._session.get_outputs()[0].shape[1:])
        # np.save takes 19 us for a header that is always the same, so it is made once.
        file = io.BytesIO()
        np.save(file, np.zeros((1, *self.answer_shape), np.float32))
        self._npy_header = file.getvalue()[: -4 * int(np.prod(self.answer_shape))]

    def run(self, rows: np.ndarray) -> np.ndarray:
        return self._session.run(None, {"x": rows})[0]

    def decode_npy(self, body: bytes) -> np.ndarray:
        """Version 1 of the format, trusting the client: 20 times faster than np.load."""
        return np.frombuffer(body, np.float32, offset=10 + (body[8] | body[9] << 8)).reshape(-1, *self.row_shape)

    def encode_npy(self, answer: np.ndarray) -> bytes:
        return self._npy_header + answer.tobytes()
