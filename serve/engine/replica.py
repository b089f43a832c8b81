"""One loaded model, warmed and proven: manifest -> backend -> samples -> golden checks -> first cost curve.

Everything that can stop a start raises BadModel with one line. The cycle gets a Replica and never asks how it was made.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from serve import codec
from serve.batching.cost import CostModel, Curve
from serve.contract import manifest as manifests
from serve.contract.manifest import Manifest, Sample
from serve.contract.signature import Signature, TensorSpec
from serve.engine.backends import loader
from serve.engine.backends.base import Array, LoadOptions, RawBackend, RawRequest, TensorBackend
from serve.engine.tensors import Gather, Scatter
from serve.errors import BadModel, EvenkeelError
from serve.transport.layout import Layout, numpy_dtype

FREE_DIM_GUESS = 16  # size of a free dim when there is no sample to learn it from
SWEEP_S_MAX = 1.5  # all measuring of batch sizes together: start-up time is part of the product
RUNS_MIN, RUNS_MAX, RUN_S_ENOUGH = 3, 20, 0.02
GAIN_TO_GO_ON = 1.05  # a doubled batch must serve 5 % more rows per second, or the sweep has seen enough

# What gather, scatter and the records add to a batch of any size; learned better as soon as real batches run.
CYCLE_S = 60e-6

Progress = Callable[[int, int, str], None]


@dataclass(slots=True)
class Replica:
    """What the cycle needs. For a raw backend `signature`, `gather` and `scatter` are None."""

    manifest: Manifest
    backend: Any  # TensorBackend when signature is set, else RawBackend
    cost: CostModel
    rows_max: int
    signature: Signature | None = None
    inputs: Layout | None = None
    outputs: Layout | None = None
    gather: Gather | None = None
    scatter: Scatter | None = None
    rows_fit: int | None = None  # of a batch, learned when a larger one did not fit into memory

    def card(self) -> dict[str, Any]:
        """What fronts are told at HELLO, as JSON."""
        return {
            "name": self.manifest.name, "version": self.manifest.version, "rows_max": self.rows_max,
            "signature": self.signature.to_json() if self.signature else None,
        }  # fmt: skip


def load(folder: Path, threads: int) -> Replica:
    """Load the model in `folder`. Raises BadModel."""
    manifest = manifests.load(folder)
    backend = loader(manifest.backend)(manifest, LoadOptions(threads))
    cost = CostModel()
    if manifest.backend == "handler":
        raw: RawBackend = backend  # type: ignore[assignment]
        # Nothing is known of its cost: suppose that a batch costs hardly more than one, until batches have run.
        cost.default = Curve([1, manifest.rows_max], [1e-3, 1.01e-3])
        return Replica(manifest, raw, cost, manifest.rows_max if raw.batched else 1)
    tensor: TensorBackend = backend  # type: ignore[assignment]
    sig = tensor.signature
    inputs, outputs = Layout(sig.inputs, sig.rows_axis), Layout(sig.outputs, sig.rows_axis)
    return Replica(
        manifest, tensor, cost, manifest.rows_max if sig.rows_axis else 1, sig, inputs, outputs,
        Gather(sig, inputs, manifest.pad_waste), Scatter(sig, outputs))  # fmt: skip


def warm(replica: Replica, progress: Progress) -> None:
    """Run every sample, check the golden ones, then measure batch sizes. Raises BadModel when an answer is wrong."""
    samples = replica.manifest.samples
    sizes = _sizes(replica.rows_max)
    total = len(samples) + (len(sizes) if replica.signature else 0)
    progress(0, total, "")
    for done, sample in enumerate(samples, start=1):
        run_sample(replica, sample)
        progress(done, total, sample.input.name)
    if replica.signature is not None:
        for done, (rows, _) in enumerate(sweep(replica), start=len(samples) + 1):
            progress(done, total, f"batch of {rows}")
    progress(total, total, "")


def run_sample(replica: Replica, sample: Sample) -> str:
    """Answer one sample as a request would be answered; compare with its golden output. Returns the answer's start."""
    label = f"sample {sample.input.name}"
    body = sample.input.read_bytes()
    try:
        if replica.signature is None:
            answer, mime = _raw_answer(replica.backend, body, sample)
        else:
            answer, mime = _tensor_answer(replica, body, sample)
    except EvenkeelError as e:
        raise BadModel(f"{label} fails: {e.code}: {e.message}") from e
    if sample.output is not None:
        difference = compare(answer, sample.output.read_bytes(), mime, sample.rtol, sample.atol)
        if difference:
            raise BadModel(f"golden check failed: {label}: {difference}")
    return answer[:200].decode("utf-8", "replace")


def _raw_answer(backend: RawBackend, body: bytes, sample: Sample) -> tuple[bytes, str]:
    reply = backend.handle([RawRequest(body, sample.content_type, _accept(sample), "warm-up")])[0]
    if isinstance(reply, Exception):
        raise reply
    return reply.body, reply.content_type


def _tensor_answer(replica: Replica, body: bytes, sample: Sample) -> tuple[bytes, str]:
    assert replica.signature is not None, "asked of tensor backends only"
    media = codec.parse_media(sample.content_type)
    into = codec.decoder_for(sample.content_type)
    decoded = into.decode(body, replica.signature, media.params)
    out = codec.negotiate(_accept(sample), into.mime, None)
    outputs = [np.asarray(a) for a in replica.backend.run(decoded.arrays)]
    return out.encode(outputs, replica.signature, decoded.form), out.mime


def _accept(sample: Sample) -> str:
    """The answer is asked for in the format of the expected file."""
    return manifests.SUFFIX_TYPES.get(sample.output.suffix, "") if sample.output else ""


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
    import io

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
    elif isinstance(want, float | int) and isinstance(got, float | int) and not isinstance(want, bool):
        return None if abs(got - want) <= atol + rtol * abs(want) else f"{where} is {got:.8g}, expected {want:.8g}"
    else:
        return None if got == want else f"{where} is {str(got)[:80]!r}, expected {str(want)[:80]!r}"
    return next((d for g, w, at in pairs if (d := _differ(g, w, rtol, atol, at))), None)


def _sizes(rows_max: int) -> list[int]:
    sizes = [1]
    while sizes[-1] * 2 <= rows_max:
        sizes.append(sizes[-1] * 2)
    return sizes if sizes[-1] == rows_max else [*sizes, rows_max]


def sweep(replica: Replica) -> Iterator[tuple[int, float]]:
    """Measure batches of 1, 2, 4, … rows until larger ones bring nothing, and start the cost curve from it.

    Yields (rows, seconds) as it goes. Raises BadModel if the model cannot run a batch of its own signature.
    """
    row = example_row(replica)
    measured: list[tuple[int, float]] = []
    end = time.monotonic() + SWEEP_S_MAX
    flat = 0
    for rows in _sizes(replica.rows_max):
        seconds = _time_batch(replica, row, rows, end)
        measured.append((rows, seconds))
        yield rows, seconds
        if len(measured) > 1:
            before = measured[-2]
            gained = rows / seconds >= GAIN_TO_GO_ON * before[0] / before[1]
            flat = 0 if gained else flat + 1
        if flat == 2 or time.monotonic() > end:
            break
    assert replica.gather is not None and replica.signature is not None, "only tensor backends are swept"
    dims = tuple(a.shape[1:] if replica.signature.rows_axis else a.shape for a in row)
    replica.cost.learn(replica.gather.key(dims), measured)


def _time_batch(replica: Replica, row: Sequence[Array], rows: int, end_s: float) -> float:
    batch = [np.concatenate([a] * rows) if rows > 1 else a for a in row]
    took: list[float] = []
    try:
        replica.backend.run(batch)  # the first run of a shape allocates; it is not what later ones cost
        while len(took) < RUNS_MIN or (sum(took) < RUN_S_ENOUGH and len(took) < RUNS_MAX):
            start = time.perf_counter()
            replica.backend.run(batch)
            took.append(time.perf_counter() - start)
            if time.monotonic() > end_s:
                break
    except EvenkeelError as e:
        raise BadModel(f"a batch of {rows} rows made from the signature fails: {e.message}") from e
    return CYCLE_S + median(took)


def example_row(replica: Replica) -> list[Array]:
    """One row of real input from the first tensor sample, else ones in the shape of the signature."""
    assert replica.signature is not None, "asked of tensor backends only"
    sig = replica.signature
    for sample in replica.manifest.samples:
        media = codec.parse_media(sample.content_type)
        decoded = codec.decoder_for(sample.content_type).decode(sample.input.read_bytes(), sig, media.params)
        return [a[:1] if sig.rows_axis else a for a in decoded.arrays]
    return [_ones(spec, sig.rows_axis) for spec in sig.inputs]


def _ones(spec: TensorSpec, rows_axis: bool) -> Array:
    shape = [d if isinstance(d, int) else FREE_DIM_GUESS for d in spec.dims]
    dtype = numpy_dtype(spec.dtype)
    full = np.full([1, *shape] if rows_axis else shape, "a" if dtype.hasobject else 1, dtype)
    return full
