"""An arena as rows: every slot offset is a multiple of STEP, so row i starts at i x STEP and rows are picked by index."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from evenkeel.serve.transport.slots import STEP

Array = np.ndarray[Any, Any]


@dataclass(slots=True)
class SharedRows:
    """Strided views over one front's arena, one per start within a slot and dtype. Few exist; made on demand."""

    memory: memoryview
    _views: dict[tuple[int, int, np.dtype[Any]], Array] = field(default_factory=dict)

    def view(self, shift: int, items: int, dtype: np.dtype[Any]) -> Array:
        """Array whose row i is the `items` elements at byte i x STEP + shift."""
        key = (shift, items, dtype)
        view = self._views.get(key)
        if view is None:
            count = (len(self.memory) - shift - items * dtype.itemsize) // STEP + 1
            flat = np.frombuffer(self.memory, np.uint8)[shift : len(self.memory) - (len(self.memory) - shift) % dtype.itemsize]
            view = as_strided(flat.view(dtype), (count, items), (STEP, dtype.itemsize))
            if len(self._views) > 64:
                self._views.clear()
            self._views[key] = view
        return view
