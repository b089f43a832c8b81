"""From what a model file says of its tensors and what the manifest says, to the one Signature that is served.

Decides whether the first axis counts rows, names the free dims, and refuses a manifest that contradicts the file. All
of it is pure except the two trial runs that are made when the file leaves open whether its outputs keep the rows.
Knows no framework: a backend brings its tensors as `Found` and a function that runs the model.

How the rows axis is found: it is there when the first axis of every input is free, has the same name everywhere, and
that size appears nowhere else (an output of [N, N] mixes rows). An output whose first axis has that name keeps the
rows. One whose first axis is free under another name may, or may not (a detector returns as many rows as it finds), so
two trial runs with different sizes tell. When even they fail, rows are not batched: slower, never wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from evenkeel.serve.contract.manifest import ROWS, UNSAID, Manifest, pad_fault
from evenkeel.serve.contract.signature import Signature, TensorSpec
from evenkeel.serve.engine.backends.base import Array
from evenkeel.serve.errors import BadModel

Dim = int | str | None  # a size, a named free dim, or a free dim without a name
Runs = Callable[[Sequence[Array]], Sequence[Array]]
# tf2onnx and torch's exporters make up a new name for every dim they do not know.
MADE_UP = re.compile(r"unk__\d+|(\w+_)?dim_\d+|\?")


@dataclass(frozen=True, slots=True)
class Found:
    """One tensor as the file has it. `shape` is the whole shape, any rows axis included; None when not known."""

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None


@dataclass(frozen=True, slots=True)
class Settled:
    signature: Signature
    batching: str  # why rows can be batched together or not, for people


def settle(ins: Sequence[Found], outs: Sequence[Found], manifest: Manifest, run: Callable[[Signature], Runs]) -> Settled:
    """`run(signature)` gives the function that runs the model on inputs in that signature's order."""
    file = manifest.file.name if manifest.file else "the model"
    if not ins or not outs:
        raise BadModel(f"{file}: a model needs at least one input and one output")
    fresh = _namer([*ins, *outs], manifest)
    ins, outs = _named(ins, fresh), _named(outs, fresh)
    axis, why = _rows_name(ins, manifest, file)
    inputs = specs(ins, manifest.inputs, "inputs", axis, file)
    if manifest.outputs is not None:
        _check_names(outs, manifest.outputs, "outputs", file)
        outs = [f for f in outs if f.name in {spec.name for spec in manifest.outputs}]
    if manifest.outputs is None or any(spec.dims == UNSAID for spec in manifest.outputs):
        outs = _renamed(outs, ins, inputs, axis)
        if any(_in_doubt(f, axis) for f in outs):
            draft = Signature(inputs, tuple(TensorSpec(f.name, f.dtype, ()) for f in outs), axis is not None)
            outs = _named(_tried(draft, outs, run(draft), axis, trust=manifest.rows_axis is True), fresh)
        loose = None if axis is None else next((f for f in outs if not _keeps_rows(f, axis)), None)
        if loose and manifest.rows_axis:
            raise BadModel(f"model.toml: inputs[0].shape says {ROWS!r}, but output {_text(loose)} of {file} does not "
                           "keep one row for each row of input; leave the rows axis out")  # fmt: skip
        if loose:
            axis, why = None, f"off: output {_text(loose)} does not keep one row for each row of input"
            inputs = specs(ins, manifest.inputs, "inputs", None, file)
    return Settled(Signature(inputs, specs(outs, manifest.outputs, "outputs", axis, file), axis is not None), why)


def _namer(tensors: Sequence[Found], manifest: Manifest) -> Callable[[], str]:
    """Names dim_0, dim_1, … for dims that have none: no two alike, since a name means one size."""
    taken = {d for f in tensors for d in f.shape or ()}
    taken |= {d for spec in (*(manifest.inputs or ()), *(manifest.outputs or ())) for d in spec.dims}
    names = (f"dim_{i}" for i in count())
    return lambda: next(name for name in names if name not in taken)


def _named(tensors: Sequence[Found], fresh: Callable[[], str]) -> list[Found]:
    """Every free dim gets a name; some exporters write a free dim as 0 or -1."""

    def name(dim: Dim) -> Dim:
        return dim if (isinstance(dim, int) and dim > 0) or (isinstance(dim, str) and dim) else fresh()

    return [f if f.shape is None else replace(f, shape=tuple(map(name, f.shape))) for f in tensors]


def _rows_name(ins: Sequence[Found], manifest: Manifest, file: str) -> tuple[str | None, str]:
    """The name in the file of the axis that counts rows, or None; and why."""
    fixed = next((f for f in ins if f.shape is not None and not (f.shape and isinstance(f.shape[0], str))), None)
    if manifest.rows_axis is False:
        return None, "off: model.toml names no rows axis"
    if manifest.rows_axis and fixed and manifest.inputs is None:
        raise BadModel(f"model.toml: outputs[0].shape says {ROWS!r}, but the first axis of input {_text(fixed)} of "
                       f"{file} is fixed; export it with a dynamic first axis, or leave the rows axis out")  # fmt: skip
    firsts = [str(f.shape[0]) for f in ins if f.shape]
    if manifest.rows_axis:
        return (firsts[0] if firsts else ROWS), "on: model.toml says so"
    if fixed:
        return None, f"off: the first axis of input {_text(fixed)} is fixed"
    given_names = {name for name in firsts if not MADE_UP.fullmatch(name)}
    if len(given_names) > 1:
        return None, f"off: the first axes of the inputs differ: {', '.join(sorted(given_names))}"
    axis = given_names.pop() if given_names else next(iter(firsts), None)
    if axis is None or any(axis in (f.shape or ())[1:] for f in ins):
        return None, f"off: {axis!r} is not only the first axis of the inputs"
    return axis, "on: the first axis of every tensor is free"


def _renamed(outs: Sequence[Found], ins: Sequence[Found], inputs: Sequence[TensorSpec], axis: str | None) -> list[Found]:
    """The outputs with the names (or sizes) that the manifest gives to the free dims of the inputs."""
    dims_of = _said({f.name: f for f in ins}, inputs, axis is not None)
    return [_with_names(f, dims_of) for f in outs]


def _said(by_name: Mapping[str, Found], specs: Sequence[TensorSpec], rows: bool) -> dict[Dim, Dim]:
    """The file's free dims, and what the specs call them, or fix them to."""
    dims_of: dict[Dim, Dim] = {}
    for spec in specs:
        shape = by_name[spec.name].shape
        if shape is not None and len(shape) == rows + len(spec.dims) and spec.dims != UNSAID:
            dims_of |= {d: s for d, s in zip(shape[rows:], spec.dims, strict=True) if isinstance(d, str)}
    return dims_of


def _with_names(f: Found, dims_of: Mapping[Dim, Dim]) -> Found:
    return f if f.shape is None else replace(f, shape=tuple(dims_of.get(d, d) for d in f.shape))


def _in_doubt(f: Found, axis: str | None) -> bool:
    """Only a run can tell: the rank is unknown, or the first axis is free under a name that is not the inputs'."""
    if f.shape is None:
        return True
    return axis is not None and bool(f.shape) and isinstance(f.shape[0], str) and f.shape[0] != axis


def _keeps_rows(f: Found, axis: str) -> bool:
    return f.shape is not None and f.shape[:1] == (axis,) and axis not in f.shape[1:]


def _text(f: Found) -> str:
    return f"{f.name!r}" if f.shape is None else f"{f.name!r} [{', '.join(map(str, f.shape))}]"


# Manifest against file ------------------------------------------------------------------------------------------------


def specs(
    tensors: Sequence[Found], declared: tuple[TensorSpec, ...] | None, key: str, axis: str | None, file: str
) -> tuple[TensorSpec, ...]:
    """The specs to serve, in the manifest's order where it has one. Raises BadModel, naming the key that is wrong."""
    rows = axis is not None
    if declared is None:
        return tuple(TensorSpec(f.name, f.dtype, _row_dims(f, rows, key, file)) for f in tensors)
    _check_names(tensors, declared, key, file)
    by_name = {f.name: f for f in tensors}
    missing = [name for name in by_name if name not in {s.name for s in declared}]
    if missing and key == "inputs":  # an output may be left out; it is then not computed
        raise BadModel(f"model.toml: [[inputs]] leave out {missing[0]!r}, which {file} needs")
    dims = _said(by_name, declared, rows)
    declared = tuple(_completed(s, _with_names(by_name[s.name], dims), f"{key}[{i}]", rows, file) for i, s in enumerate(declared))
    for i, spec in enumerate(declared):
        _check(spec, by_name[spec.name], f"{key}[{i}]", rows, file)
    return declared


def _check_names(tensors: Sequence[Found], declared: Sequence[TensorSpec], key: str, file: str) -> None:
    names = [f.name for f in tensors]
    for i, spec in enumerate(declared):
        if spec.name not in names:
            raise BadModel(f"model.toml: {key}[{i}].name = {spec.name!r} is not in {file}; it has {', '.join(names)}")


def _completed(spec: TensorSpec, f: Found, key: str, rows: bool, file: str) -> TensorSpec:
    """What the manifest leaves to the file, as the file has it."""
    dtype = spec.dtype or f.dtype
    wrong = pad_fault(spec.pad, dtype) if spec.pad is not None else ""
    if wrong:
        raise BadModel(f"model.toml: {key}.pad{wrong}, which it is in {file}")
    return replace(spec, dtype=dtype, dims=_row_dims(f, rows, key, file) if spec.dims == UNSAID else spec.dims)


def _check(spec: TensorSpec, f: Found, key: str, rows: bool, file: str) -> None:
    if spec.dtype != f.dtype:
        raise BadModel(f"model.toml: {key}.dtype is {spec.dtype}, but {spec.name!r} in {file} is {f.dtype}")
    if f.shape is None:
        return
    declared_dims: tuple[int | str, ...] = ((ROWS,) if rows else ()) + spec.dims
    if len(declared_dims) != len(f.shape):
        raise BadModel(f"model.toml: {key}.shape has {len(declared_dims)} dimensions, but {file} has {_text(f)}")
    for place, (ours, theirs) in enumerate(zip(declared_dims, f.shape, strict=True)):
        if isinstance(theirs, int) and ours != theirs:
            what = f"{ours!r} is free" if isinstance(ours, str) else f"the size is {ours}"
            advice = "; export it with a dynamic first axis, or leave the rows axis out" if rows and not place else ""
            raise BadModel(f"model.toml: {key}.shape[{place}]: {what}, but {file} fixes it: {_text(f)}{advice}")


def _row_dims(f: Found, rows: bool, key: str, file: str) -> tuple[int | str, ...]:
    if f.shape is None:
        table = key.partition("[")[0]
        raise BadModel(f"{file} does not say the shape of {f.name!r}: say [[{table}]] with name, dtype and shape in "
                       "model.toml")  # fmt: skip
    dims = tuple(d for d in f.shape if d is not None)
    return dims[1:] if rows else dims


# Trial runs -----------------------------------------------------------------------------------------------------------

ROWS_TRIED = (2, 3)


def sizes_tried(names: Sequence[str], trial: int) -> dict[str, int]:
    """Different sizes for different names and trials; multiples of 32, since many image networks need that."""
    return {name: 32 * (2 + trial + 2 * i) for i, name in enumerate(names)}


def trial_inputs(inputs: Sequence[TensorSpec], rows: int | None, sizes: Mapping[str, int]) -> list[Array]:
    """Zeros (a valid token number everywhere), False or empty strings."""
    lead = () if rows is None else (rows,)
    return [filled(s.dtype, lead + tuple(sizes[d] if isinstance(d, str) else d for d in s.dims)) for s in inputs]


def filled(dtype: str, shape: tuple[int, ...]) -> Array:
    if dtype == "string":
        return np.full(shape, "", dtype=object)
    return np.zeros(shape, dtype="uint16" if dtype == "bfloat16" else dtype)


def learn(inputs: Sequence[TensorSpec], rows_axis: bool, run: Runs, axis: str = ROWS) -> list[tuple[Dim, ...]] | None:
    """The shapes of the outputs, learnt from two runs of different sizes; None when the model refused them."""
    names = sorted({d for s in inputs for d in s.dims if isinstance(d, str)})
    seen: list[list[tuple[int, ...]]] = []
    sizes: list[dict[str, int]] = []
    for trial, rows in enumerate(ROWS_TRIED):
        size = sizes_tried(names, trial)
        try:
            outputs = run(trial_inputs(inputs, rows if rows_axis else None, size))
        except Exception:
            return None
        seen.append([o.shape for o in outputs])
        sizes.append({**size, axis: rows} if rows_axis else size)
    if list(map(len, seen[0])) != list(map(len, seen[1])):
        return None
    return [tuple(map(lambda a, b: _dim(a, b, sizes), *pair)) if pair[0] else () for pair in zip(*seen, strict=True)]


def _dim(first: int, second: int, sizes: Sequence[Mapping[str, int]]) -> Dim:
    """A dim that follows a free dim of the inputs has its name; one that stays is fixed, unless nothing was found."""
    if first == second and first > 0:
        return first
    return next((name for name in sizes[0] if (sizes[0][name], sizes[1][name]) == (first, second)), None)


def _tried(draft: Signature, outs: Sequence[Found], run: Runs, axis: str | None, *, trust: bool) -> list[Found]:
    """What the trial runs say of the outputs in doubt. `trust`: when they fail, believe the manifest's rows axis."""
    shapes = learn(draft.inputs, draft.rows_axis, run, axis or ROWS)
    if shapes is not None:
        return [replace(f, shape=s) if _in_doubt(f, axis) else f for f, s in zip(outs, shapes, strict=True)]
    if not trust:
        return list(outs)
    return [replace(f, shape=(axis, *f.shape[1:])) if f.shape and _in_doubt(f, axis) else f for f in outs]
