"""How much memory the GPU of this engine has, as its driver says: ONNX Runtime takes a limit in bytes and does not know.

None of the calls makes a CUDA context, so that asking takes nothing of the GPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

LIBRARY = "libcuda.so.1"  # comes with the driver, not with the image


def memory_bytes(library: Callable[[str], Any] = ctypes.CDLL) -> int | None:
    """Of device 0, the only one that an engine sees: of the whole GPU, or of the slice. None: there is nobody to ask.
    `library` loads one by its name."""
    try:
        driver = library(LIBRARY)
    except OSError:
        return None
    device, size = ctypes.c_int(), ctypes.c_size_t()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    return None if driver.cuDeviceTotalMem_v2(ctypes.byref(size), device) else size.value
