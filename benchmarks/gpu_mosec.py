"""Mosec with a model of benchmarks/gpu.py: its front in Rust, and workers that each hold the model (see gpu_peers.py)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import mosec
from mosec import Runtime, Server, Worker
from mosec import runtime as runtime_of_mosec

from benchmarks.gpu_peers import Array, Model, batched, decoded, encoded, ordered

WORK = "GPU_PEER_WORK"  # Mosec makes its workers without arguments
TIMEOUT_S = 60


class Npy(Worker):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        work, tiny, rows_max = json.loads(os.environ[WORK])
        self._model = Model(work, tiny, rows_max)

    def deserialize(self, data: bytes) -> Array:
        return decoded(data)

    def serialize(self, data: Array) -> bytes:
        return encoded(data)

    def forward(self, data: Sequence[Array]) -> list[Array]:
        return list(self._model.run(batched(data)))


def main() -> None:
    order = ordered()
    os.environ[WORK] = json.dumps([order.work, order.tiny, order.setting.rows_max])
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", str(order.port), "--timeout", str(1000 * TIMEOUT_S),
                    "--capacity", "8192", "--namespace", f"gpu-{order.port}", "--log-level", "warning"]  # fmt: skip
    wait_ms = max(1, order.setting.wait_ms)  # it takes 0 for its default of 10
    runtime = Runtime(Npy, num=order.setting.workers, max_batch_size=order.setting.rows_max, max_wait_time=wait_ms,
                      timeout=TIMEOUT_S)  # fmt: skip
    if runtime_of_mosec.get_mosec_path() is None:  # it looks where pip puts scripts, which is elsewhere with `--target`
        runtime_of_mosec.get_mosec_path = lambda: Path(mosec.__file__).parent.parent / "bin" / "mosec"
    server = Server()
    server.register_runtime({"/invocations": [runtime]})
    server.run()


if __name__ == "__main__":
    main()
