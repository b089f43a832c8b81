"""Tensors and arrays, dtypes, and torch's own words. The only file that imports torch: the others here take it from this one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as torch
import torch.export.passes

from evenkeel.serve.engine.backends.base import Array
from evenkeel.serve.engine.foreign import text_of
from evenkeel.serve.errors import BadModel, ModelFailed

MESSAGE_CHARS_MAX = 400
# uint16, uint32 and uint64 are missing in older versions.
DTYPES = {getattr(torch, name): name for name in (
    "float16", "bfloat16", "float32", "float64", "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64",
    "uint64") if hasattr(torch, name)}  # fmt: skip
TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}


def tensor(array: Array, is_bits: bool) -> torch.Tensor:
    if not array.flags.writeable:  # torch has no read-only tensors, and warns
        array = array.copy()
    tensor = torch.from_numpy(array.view(np.int16) if is_bits else array)
    return tensor.view(torch.bfloat16) if is_bits else tensor


def array(tensor: torch.Tensor) -> Array:
    if tensor.dtype is torch.bfloat16:
        bits: Array = tensor.view(torch.int16).numpy().view(np.uint16)
        return bits
    array: Array = tensor.detach().numpy()
    return array


def flat(result: Any) -> tuple[list[str], list[torch.Tensor]]:
    """What a module may return: one tensor, a tuple or list of them, or a dict of them, whose keys are the names."""
    keys = [str(key) for key in result] if isinstance(result, dict) else []
    values = list(result.values()) if isinstance(result, dict) else result
    values = [values] if isinstance(values, torch.Tensor) else values
    if not isinstance(values, list | tuple) or not all(isinstance(value, torch.Tensor) for value in values):
        raise ModelFailed("the model must give a tensor, a tuple or list of tensors, or a dict of tensors")
    return keys, list(values)


def joined(parts: Sequence[Sequence[Array]]) -> list[Array]:
    return [np.concatenate(same) for same in zip(*parts, strict=True)]


def dtype_name(name: str, dtype: torch.dtype, file: Path) -> str:
    if dtype not in DTYPES:
        raise BadModel(f"{file}: {name!r} has dtype {dtype}, which cannot travel: convert it inside the model")
    return DTYPES[dtype]


def short(e: Exception) -> str:
    """One line: TorchScript puts its own traceback first, everything else the C++ one last."""
    lines = [line.strip() for line in text_of(e).splitlines() if line.strip()] or [type(e).__name__]
    text = lines[-1] if "TorchScript" in lines[0] else lines[0]
    return text if len(text) <= MESSAGE_CHARS_MAX else text[:MESSAGE_CHARS_MAX] + "…"


def compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Sizes stay symbols, so that one row and any number of rows are two compilations and not one for each size."""
    import torch._inductor.config as inductor

    inductor.cpp_cache_precompile_headers = False  # they would stay behind outside our scratch folder
    inductor.compile_threads = 1  # else it starts a pool of processes, which outlives the need for it
    program: Callable[..., Any] = torch.compile(forward, dynamic=True)
    return program
