"""Mosec: a Rust front and one Python worker that batches. One route for each wire format, each with its own worker."""

from __future__ import annotations

import msgspec
import numpy as np
from model_session import Model, settings
from mosec import Runtime, Server, Worker

SETTINGS = settings()


class OnnxWorker(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.model = Model(SETTINGS)

    def forward(self, data: list[np.ndarray]) -> list[np.ndarray]:
        return list(self.model.run(np.concatenate(data)))


class JsonWorker(OnnxWorker):
    decoder = msgspec.json.Decoder()

    def deserialize(self, data: bytes) -> np.ndarray:
        return np.array(self.decoder.decode(data)["instances"], np.float32)

    def serialize(self, data: np.ndarray) -> bytes:
        return msgspec.json.encode({"predictions": [data.tolist()]})


class NpyWorker(OnnxWorker):
    def deserialize(self, data: bytes) -> np.ndarray:
        return self.model.decode_npy(data)

    def serialize(self, data: np.ndarray) -> bytes:
        return self.model.encode_npy(data)


if __name__ == "__main__":
    # A wait of 0 would mean Mosec's default of 10 ms, so 1 is the least there is.
    limits = {"max_batch_size": SETTINGS.rows_max, "max_wait_time": max(1, SETTINGS.wait_ms), "timeout": 60}
    server = Server()
    server.register_runtime({"/json": [Runtime(JsonWorker, num=1, **limits)], "/npy": [Runtime(NpyWorker, num=1, **limits)]})
    server.run()
