"""Golden checks: is this model right, as far as one can tell before it takes traffic? Each failure names its difference.

A sample with an expected output must give it, within tolerance. No sample may give a NaN or an infinity unless the
output allows it. A batch of n rows must give what its rows give alone, for every batch size that warm-up runs: else
the answer to a client would depend on who else was asking. Knows no HTTP and no clock.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenkeel.serve.contract.signature import Signature, TensorSpec
from evenkeel.serve.engine.backends.base import Array
from evenkeel.serve.errors import BadModel

# How far a row may move when it runs in a batch, as a share of the largest value in that output: rounding grows with
# the terms that were added, not with their sum. Another order of adding costs float32 about 1e-6, TF32 or
# float16 inside the model 1e-4 to 1e-3; rows that really reach each other (statistics of the batch, an axis mixed up)
# differ by percents and more. Half a percent lies between. An output of 16 bits has 3 or 2 digits, so 2 % there.
BATCH_TOLERANCE = 5e-3
BATCH_TOLERANCE_16 = 2e-2
ROUNDING = 1e-6  # what float32 loses on terms of about ten, for outputs that are all next to nothing
# Of made-up rows, only a difference so many times larger counts: where every value is a one, a model may be ill-conditioned.
# magika's file classifier was off by 1.2 times what is allowed, on real files by 1e-4 of it.
MADE_UP_SLACK = 10.0
# Of integers, one element in a hundred may differ (a pixel rounded the other way); an answer of fewer must be exact.
INTEGERS_DIFFERENT_MAX = 0.01


class GoldenFailed(BadModel):
    """A model that runs and is wrong. It never travels, so it has no place among the families in errors.py."""


@dataclass(slots=True)
class Golden:
    """How many checks there were. A failed one raises GoldenFailed, so `passed` differs only after a failure."""

    checked: int = 0
    passed: int = 0
    outputs: int = 0  # of those that passed, answers that were compared with an expected output
    batches: int = 0  # and batches that were compared with their rows alone

    def judge(self, what: str, difference: str | None) -> None:
        self.checked += 1
        if difference:
            raise GoldenFailed(f"golden check failed: {what}: {difference}")
        self.passed += 1

    def judge_output(self, what: str, difference: str | None) -> None:
        self.judge(what, difference)
        self.outputs += 1

    def judge_batch(self, what: str, difference: str | None) -> None:
        self.judge(what, difference)
        self.batches += 1

    def to_json(self) -> dict[str, int]:
        return {"checked": self.checked, "passed": self.passed, "outputs": self.outputs, "batches": self.batches}


# An answer against the expected one -----------------------------------------------------------------------------------


def compare(got: bytes, want: bytes, mime: str, rtol: float, atol: float) -> str | None:
    """What differs between two answers, or None. Numbers within tolerance, everything else exactly."""
    if mime in ("application/json", "application/jsonlines"):
        split = (lambda b: [json.loads(x) for x in b.splitlines() if x]) if mime.endswith("lines") else json.loads
        try:
            return _differ(split(got), split(want), rtol, atol, "answer")
        except ValueError as e:
            return f"the expected output is not {mime}: {e}"
    if mime == "application/x-npy":
        return _differ(_npy(got), _npy(want), rtol, atol, "answer")
    if mime == "text/csv":
        return _differ(_cells(got), _cells(want), rtol, atol, "answer")
    return None if got == want else f"{len(got)} bytes answered differ from the {len(want)} bytes expected"


def _npy(raw: bytes) -> Any:
    return np.load(io.BytesIO(raw), allow_pickle=False).tolist()


def _cells(raw: bytes) -> list[list[Any]]:
    def cell(text: str) -> Any:
        try:
            return float(text)
        except ValueError:
            return text

    return [[cell(c) for c in line.split(",")] for line in raw.decode().splitlines() if line]


def _differ(got: Any, want: Any, rtol: float, atol: float, where: str) -> str | None:
    if isinstance(want, dict) and isinstance(got, dict) and set(want) == set(got):
        pairs: Any = [(got[k], want[k], f"{where}.{k}") for k in want]
    elif isinstance(want, list) and isinstance(got, list) and len(want) == len(got):
        pairs = [(g, w, f"{where}[{i}]") for i, (g, w) in enumerate(zip(got, want, strict=True))]
    elif _number(want) and _number(got):
        allowed, off = atol + rtol * abs(want), abs(got - want)
        if off <= allowed or (got != got and want != want):
            return None
        return f"{where} is {got:.8g}, expected {want:.8g}: off by {off:.3g}, allowed {allowed:.3g}"
    else:
        return None if got == want else f"{where} is {str(got)[:80]!r}, expected {str(want)[:80]!r}"
    return next((d for g, w, at in pairs if (d := _differ(g, w, rtol, atol, at))), None)


def _number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


# NaN ------------------------------------------------------------------------------------------------------------------


def not_finite(outputs: Sequence[Array], signature: Signature) -> str | None:
    """The first NaN or infinity where none is allowed, in words."""
    for spec, output in zip(signature.outputs, outputs, strict=True):
        values = _floats(spec, output)
        if spec.allow_nan or values is None or np.isfinite(values).all():
            continue
        at = np.argwhere(~np.isfinite(values))[0].tolist()
        return (f"output {spec.name!r} is {values[tuple(at)]} at {at}; "
                "say allow_nan = true for it in [[outputs]] if that is right")  # fmt: skip
    return None


def _floats(spec: TensorSpec, output: Array) -> Array | None:
    """Its values as floats, or None when it holds none."""
    if spec.dtype == "bfloat16":  # bits: the upper half of a float32
        floats: Array = (output.astype(np.uint32) << 16).view(np.float32)
        return floats
    return output if output.dtype.kind == "f" else None


# A batch against its rows ---------------------------------------------------------------------------------------------


def rows_differ(
    together: Sequence[Array], alone: Sequence[Sequence[Array]], signature: Signature, tolerance: float | None, slack: float = 1.0
) -> str | None:
    """What differs between a batch's outputs and those of its rows alone (repeated in turn), in words. `slack`: how many times
    the tolerance a float may be off."""
    for i, (spec, output) in enumerate(zip(signature.outputs, together, strict=True)):
        allowed = slack * _allowed(spec, [row[i] for row in alone], tolerance)
        for row in range(len(output)):
            difference = _row_differs(spec, output[row], alone[row % len(alone)][i][0], allowed)
            if difference:
                where = f"row {row} of a batch of {len(output)} gives in output {spec.name!r}{difference}"
                return (f"rows depend on each other: {where}. Correct the model; or say rows_depend = true under [batching], so "
                        "that requests never share a batch; or set its tolerance")  # fmt: skip
    return None


def _allowed(spec: TensorSpec, alone: Sequence[Array], tolerance: float | None) -> float:
    """By how much a float of this output may be off."""
    if tolerance is None:
        tolerance = BATCH_TOLERANCE_16 if spec.dtype in ("float16", "bfloat16") else BATCH_TOLERANCE
    floats = [values for output in alone if (values := _floats(spec, output)) is not None]
    finite = [np.abs(values[np.isfinite(values)], dtype=np.float64) for values in floats]
    return max(ROUNDING, tolerance * max([float(values.max(initial=0.0)) for values in finite], default=0.0))


def _row_differs(spec: TensorSpec, got: Array, want: Array, allowed: float) -> str | None:
    got, want = np.asarray(got), np.asarray(want)  # a row of a column of strings is a str
    if got.shape != want.shape:
        return f" the shape {list(got.shape)}, alone {list(want.shape)}"
    if _floats(spec, want) is None:
        different = np.asarray(got != want)
        if different.sum() <= INTEGERS_DIFFERENT_MAX * different.size:
            return None
        at = _first(different)
        return f" {str(got[at])[:80]} at {list(at)}, alone {str(want[at])[:80]}"
    a, b = (np.asarray(_floats(spec, values), np.float64) for values in (got, want))
    with np.errstate(invalid="ignore"):
        off = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    off = np.nan_to_num(off, nan=np.inf)
    if off.size == 0 or off.max() <= allowed:
        return None
    at = _first(off == off.max())
    return f" {a[at]:.6g} at {list(at)}, alone {b[at]:.6g}: off by {off[at]:.3g}, allowed {allowed:.3g}"


def _first(where: Array) -> tuple[int, ...]:
    return tuple(int(n) for n in np.unravel_index(int(where.argmax()), where.shape))
