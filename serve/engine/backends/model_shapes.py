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
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from evenkeel.serve.contract.manifest import ROWS, UNSAID, Manifest, pad_fault
from evenkeel.serve.contract.signature import Signature, TensorSpec
from evenkeel.serve.engine.backends.trial_runs import Dim, Runs, learn
from evenkeel.serve.errors import BadModel

# tf2onnx and torch's exporters make up a new name for every dim they do not know.
MADE_UP = re.compile(r"(\w+_)?dim_\d+")
# What stands for "not known", so that two of them are two sizes; and what is no name but a formula of other sizes.
NAME = re.compile(r"(?!unk__\d+$|None$)[^\W\d][\w.:/-]*")


@dataclass(frozen=True, slots=True)
class Found:
    """One tensor as the file has it. `shape` is the whole shape, any rows axis included; None when not known."""

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None
    keys: tuple[str, ...] = ()  # of a map for each row, as in TensorSpec


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
        outs, sure = _sure(inputs, outs, axis, manifest, run, fresh)
        loose = None if axis is None else next((f for f in outs if not _keeps_rows(f, axis)), None)
        if loose and manifest.rows_axis:
            raise BadModel(f"model.toml: inputs[0].shape says {ROWS!r}, but output {_text(loose)} of {file} does not "
                           "keep one row for each row of input; leave the rows axis out")  # fmt: skip
        if loose:
            axis, why = None, f"off: output {_text(loose)} does not keep one row for each row of input"
            inputs = specs(ins, manifest.inputs, "inputs", None, file)
            if not sure:
                outs, _ = _sure(inputs, outs, None, manifest, run, fresh)
    doubts: list[str] = []
    outputs = specs(outs, manifest.outputs, "outputs", axis, file, doubts)
    signature = Signature(inputs, outputs, axis is not None)
    if doubts:
        _refuse_unlike(signature, doubts[0], run(signature))
    return Settled(signature, why)


def _namer(tensors: Sequence[Found], manifest: Manifest) -> Callable[[], str]:
    """Names dim_0, dim_1, … for dims that have none: no two alike, since a name means one size."""
    taken = {d for f in tensors for d in f.shape or ()}
    taken |= {d for spec in (*(manifest.inputs or ()), *(manifest.outputs or ())) for d in spec.dims}
    names = (f"dim_{i}" for i in count())
    return lambda: next(name for name in names if name not in taken)


def _named(tensors: Sequence[Found], fresh: Callable[[], str]) -> list[Found]:
    """Every free dim gets a name; some exporters write a free dim as 0, -1, "?" or a name that they made up for it alone."""

    def name(dim: Dim) -> Dim:
        return dim if (isinstance(dim, int) and dim > 0) or (isinstance(dim, str) and NAME.fullmatch(dim)) else fresh()

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


def _in_doubt(f: Found, axis: str | None, known: Container[Dim]) -> bool:
    """Only a run can tell: the rank is unknown, the first axis is not that of the rows, or, where there are no rows, a dim is
    free under a name that no input has (files are wrong about such outputs, even about their rank)."""
    if f.shape is None:
        return True
    if axis is None:
        return any(isinstance(d, str) and d not in known for d in f.shape)
    return bool(f.shape) and f.shape[0] != axis


def _keeps_rows(f: Found, axis: str) -> bool:
    return f.shape is not None and f.shape[:1] == (axis,) and axis not in f.shape[1:]


def _text(f: Found) -> str:
    return f"{f.name!r}" if f.shape is None else f"{f.name!r} [{', '.join(map(str, f.shape))}]"


# Manifest against file ------------------------------------------------------------------------------------------------


def specs(
    tensors: Sequence[Found], declared: tuple[TensorSpec, ...] | None, key: str, axis: str | None, file: str,
    doubts: list[str] | None = None,
) -> tuple[TensorSpec, ...]:  # fmt: skip
    """The specs to serve, in the manifest's order where it has one. Raises BadModel, naming the key that is wrong.

    `doubts`: where shapes that contradict the file go, instead of being refused.
    """
    rows = axis is not None
    if declared is None:
        return tuple(TensorSpec(f.name, f.dtype, _row_dims(f, rows, key, file), keys=f.keys) for f in tensors)
    _check_names(tensors, declared, key, file)
    by_name = {f.name: f for f in tensors}
    missing = [name for name in by_name if name not in {s.name for s in declared}]
    if missing and key == "inputs":  # an output may be left out; it is then not computed
        raise BadModel(f"model.toml: [[inputs]] leave out {missing[0]!r}, which {file} needs")
    dims = _said(by_name, declared, rows)
    declared = tuple(_completed(s, _with_names(by_name[s.name], dims), f"{key}[{i}]", rows, file) for i, s in enumerate(declared))
    for i, spec in enumerate(declared):
        wrong = _contradiction(spec, by_name[spec.name], f"{key}[{i}]", rows, file)
        if wrong and doubts is None:
            raise BadModel(wrong)
        if wrong and doubts is not None:
            doubts.append(wrong)
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
    return replace(spec, dtype=dtype, keys=f.keys, dims=_row_dims(f, rows, key, file) if spec.dims == UNSAID else spec.dims)


def _contradiction(spec: TensorSpec, f: Found, key: str, rows: bool, file: str) -> str:
    """What model.toml says otherwise than the file; "": nothing. A wrong dtype is refused: the runtime gives no other."""
    if spec.dtype != f.dtype:
        raise BadModel(f"model.toml: {key}.dtype is {spec.dtype}, but {spec.name!r} in {file} is {f.dtype}")
    if f.shape is None:
        return ""
    declared_dims: tuple[int | str, ...] = ((ROWS,) if rows else ()) + spec.dims
    if len(declared_dims) != len(f.shape):
        return f"model.toml: {key}.shape has {len(declared_dims)} dimensions, but {file} has {_text(f)}"
    for place, (ours, theirs) in enumerate(zip(declared_dims, f.shape, strict=True)):
        if isinstance(theirs, int) and ours != theirs:
            what = f"{ours!r} is free" if isinstance(ours, str) else f"the size is {ours}"
            advice = "; export it with a dynamic first axis, or leave the rows axis out" if rows and not place else ""
            return f"model.toml: {key}.shape[{place}]: {what}, but {file} fixes it: {_text(f)}{advice}"
    return ""


def _row_dims(f: Found, rows: bool, key: str, file: str) -> tuple[int | str, ...]:
    if f.shape is None:
        table = key.partition("[")[0]
        raise BadModel(f"{file} does not say the shape of {f.name!r}: say [[{table}]] with name, dtype and shape in "
                       "model.toml")  # fmt: skip
    dims = tuple(d for d in f.shape if d is not None)
    return dims[1:] if rows else dims


# Trial runs -----------------------------------------------------------------------------------------------------------


def _sure(
    inputs: tuple[TensorSpec, ...], outs: list[Found], axis: str | None, manifest: Manifest, run: Callable[[Signature], Runs],
    fresh: Callable[[], str],
) -> tuple[list[Found], bool]:  # fmt: skip
    """The outputs as trial runs show those in doubt, and whether nothing is left to find out."""
    known = {d for s in inputs for d in s.dims} | {axis}
    doubted = [_in_doubt(f, axis, known) for f in outs]
    if not any(doubted):
        return outs, True
    draft = Signature(inputs, tuple(TensorSpec(f.name, f.dtype, (), keys=f.keys) for f in outs), axis is not None)
    shapes = learn(draft.inputs, draft.rows_axis, run(draft), axis or ROWS)
    if shapes is not None:
        seen = [replace(f, shape=_merged(f, s)) if doubt else f for f, s, doubt in zip(outs, shapes, doubted, strict=True)]
        return _named(seen, fresh), True
    if manifest.rows_axis and axis is not None:  # the owner says so
        return [replace(f, shape=(axis, *f.shape[1:])) if f.shape and doubt else f
                for f, doubt in zip(outs, doubted, strict=True)], False  # fmt: skip
    return outs, False


def _merged(f: Found, seen: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """A dim that the file calls free stays free, whatever two runs gave; otherwise what they gave counts."""
    if f.shape is None or len(f.shape) != len(seen):
        return seen
    return tuple(said if isinstance(said, str) and not isinstance(was, str) else was
                 for said, was in zip(f.shape, seen, strict=True))  # fmt: skip


def _refuse_unlike(signature: Signature, contradiction: str, run: Runs) -> None:
    """model.toml and the file say different things of an output: a run tells who is right. Where none can be made the owner of
    the model is believed. Raises BadModel."""
    shapes = learn(signature.inputs, signature.rows_axis, run)
    for spec, shape in zip(signature.outputs, shapes or (), strict=False):
        wanted: tuple[Dim, ...] = ((ROWS,) if signature.rows_axis else ()) + spec.dims
        fits = len(wanted) == len(shape) and all(
            (w == s) if isinstance(w, int) or w == ROWS else True for w, s in zip(wanted, shape, strict=True)
        )
        if not fits:
            seen = ", ".join("free" if d is None else str(d) for d in shape)
            raise BadModel(f"{contradiction}; and the model gives {spec.name!r} [{seen}]")
