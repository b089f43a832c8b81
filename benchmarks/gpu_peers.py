"""What LitServe and Mosec share in benchmarks/gpu.py: the settings tried, the torch model, batches and bodies.

Their servers are gpu_litserve.py and gpu_mosec.py: `python -m benchmarks.gpu_mosec <work> <port> '<Setting as JSON>' [--tiny]`.
Neither is needed by anything of ours: who measures installs them in a folder (`pip install --target FOLDER litserve mosec`)
and names it (`--peers FOLDER`).
"""

from __future__ import annotations

import argparse
import io
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

Array = Any
READY = "a worker holds its model"  # a line of its log for each


@dataclass(frozen=True, slots=True)
class Setting:
    """`workers`: processes that each hold the model; `fronts`: HTTP processes of LitServe. Mosec's HTTP is one, with threads."""

    rows_max: int
    wait_ms: int
    workers: int
    fronts: int = 1

    def __str__(self) -> str:
        fronts = f", {self.fronts} HTTP processes" if self.fronts > 1 else ""
        return f"batches of {self.rows_max}, wait {self.wait_ms} ms, workers: {self.workers}{fronts}"


# Most promising first: fewer are tried where time is short.
SETTINGS = {
    "mosec": (Setting(64, 5, 4), Setting(64, 5, 2), Setting(32, 1, 8)),
    "litserve": (Setting(64, 5, 4, 8), Setting(64, 5, 2, 4), Setting(32, 1, 2, 8)),
}
SETTINGS_TINY = {"mosec": (Setting(8, 1, 1), Setting(8, 1, 2)), "litserve": (Setting(8, 1, 1), Setting(8, 1, 1, 2))}


@dataclass(frozen=True, slots=True)
class Order:
    """What a peer is started for."""

    work: str
    port: int
    setting: Setting
    tiny: bool


def ordered() -> Order:
    parser = argparse.ArgumentParser()
    parser.add_argument("work")
    parser.add_argument("port", type=int)
    parser.add_argument("setting")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    return Order(args.work, args.port, Setting(**json.loads(args.setting)), args.tiny)


class Model:
    """The torch model on its device, as both peers' workers hold it, warm."""

    def __init__(self, work: str, tiny: bool, rows_max: int) -> None:
        import torch  # only workers load it

        from benchmarks import gpu_models

        self._torch, self._device = torch, "cuda" if torch.cuda.is_available() else "cpu"
        self._model = gpu_models.made(work, tiny).to(self._device)
        for rows in (1, rows_max, rows_max):
            self.run(gpu_models.inputs(work, rows, tiny).numpy())
        print(READY, flush=True)

    def run(self, batch: Array) -> Array:
        with self._torch.inference_mode():
            return self._model(self._torch.from_numpy(batch).to(self._device)).cpu().numpy()


def decoded(body: bytes | bytearray) -> Array:  # the latter is Mosec's
    """Of an NPY file. Its header costs more to read than its bytes, so it is read once; nothing is copied."""
    end = 10 + struct.unpack_from("<H", body, 8)[0]
    like = _empty(bytes(body[:end]))
    return np.frombuffer(body, like.dtype, offset=end).reshape(like.shape)


def encoded(row: Array) -> bytes:
    return _header(row.dtype.str, (1, *row.shape)) + row.tobytes()


@lru_cache
def _empty(header: bytes) -> Array:
    file = io.BytesIO(header)
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return np.broadcast_to(np.zeros((), dtype), shape)


@lru_cache
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out.getvalue()


def batched(arrays: Sequence[Array]) -> Array:
    """Words of different lengths are filled up with zeros, which the encoder takes for padding."""
    longest = max(a.shape[1] for a in arrays)
    if all(a.shape[1] == longest for a in arrays):
        return np.concatenate(arrays)
    batch = np.zeros((len(arrays), longest), arrays[0].dtype)
    for row, array in zip(batch, arrays, strict=True):
        row[: array.shape[1]] = array[0]
    return batch
