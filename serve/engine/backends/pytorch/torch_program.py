"""Programs from files: torch.export archives (.pt2) and TorchScript (.pt).

A .pt2 says the names and shapes of its inputs and outputs, TorchScript says only names, so there the manifest gives the
inputs and trial runs show the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evenkeel.serve.contract.manifest import ROWS, UNSAID, Manifest
from evenkeel.serve.contract.signature import TensorSpec
from evenkeel.serve.engine.backends.model_shapes import Found
from evenkeel.serve.engine.backends.pytorch.torch_device import TorchTransfers
from evenkeel.serve.engine.backends.pytorch.torch_tensors import (
    DTYPES,
    TORCH_DTYPES,
    compiled,
    dtype_name,
    flat,
    short,
    tensor,
    torch,
)
from evenkeel.serve.engine.backends.trial_runs import ROWS_TRIED, Dim, sizes_tried, trial_inputs
from evenkeel.serve.engine.models.startup import Ledger
from evenkeel.serve.errors import BadModel

Forward = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class TorchProgram:
    """A loaded program: `forward` takes tensors in the order of `ins`; `rows_max` is a bound set at export, or None."""

    format: str
    forward: Forward
    ins: tuple[Found, ...]
    outs: tuple[Found, ...]
    rows_max: int | None = None
    compiled: Forward | None = None  # the same by torch.compile, which compiles at its first calls


# torch.export ---------------------------------------------------------------------------------------------------------


def exported(file: Path, manifest: Manifest, device: TorchTransfers | None, ledger: Ledger) -> TorchProgram:
    try:
        program = torch.export.load(str(file))
        module = program.module()
    except Exception as e:  # torch raises whatever its deserializer met
        raise BadModel(f"{file}: torch {torch.__version__} cannot load it: {short(e)}; was it saved by a newer torch, "
                       "or is it cut short?") from e  # fmt: skip
    if device is not None:
        # What goes wrong here is the device's, whose memory a predecessor may still hold: the engine is started again.
        with ledger.phase("device_copy"):
            program = torch.export.passes.move_to_device_pass(program, device.target)
            module = program.module()
    meta = {node.name: node.meta.get("val") for node in program.graph.nodes}
    ins = tuple(_found(str(name), meta.get(str(name)), file) for name in program.graph_signature.user_inputs)
    values = [meta.get(str(name)) for name in program.graph_signature.user_outputs]
    spec = program.call_spec.out_spec
    keys = list(spec.context) if spec is not None and spec.type is dict else []
    outs = tuple(_found(name, value, file) for name, value in zip(_output_names(keys, len(values), manifest), values,
                                                                  strict=True))  # fmt: skip
    # The plain code takes and gives flat lists of tensors, whatever structure the module's arguments had; and calling
    # `forward` skips hooks that check again what the guards inside check. 50 us a call instead of 135 for one layer.
    module.graph.set_codegen(torch.fx.graph.CodeGen())
    module.recompile()
    first = str(ins[0].shape[0]) if ins and ins[0].shape else ""
    return TorchProgram("torch.export", module.forward, ins, outs, _upper_bound(program, first))


def with_compiled(program: TorchProgram) -> TorchProgram:
    return replace(program, compiled=compiled(program.forward))


def _upper_bound(program: Any, symbol: str) -> int | None:
    """The most rows that the export allows. Infinity is a symbol of its own there, hence the text."""
    bound = next((str(r.upper) for s, r in program.range_constraints.items() if str(s) == symbol), "")
    return int(bound) if bound.isdigit() else None


def _found(name: str, value: Any, file: Path) -> Found:
    if not isinstance(value, torch.Tensor):
        raise BadModel(f"{file}: {name!r} is not a tensor but {type(value).__name__}: export a module that takes and "
                       "gives tensors only")  # fmt: skip
    shape: tuple[Dim, ...] = tuple(d if isinstance(d, int) else str(d) for d in value.shape)
    return Found(name, dtype_name(name, value.dtype, file), shape)


# TorchScript ----------------------------------------------------------------------------------------------------------


def load_script(file: Path, device: TorchTransfers | None = None, ledger: Ledger | None = None) -> Any:
    """On a GPU it is read twice, so that a file that cannot be read is told from a device that cannot take it."""
    script = _load_script(file)
    if device is None:
        return script
    with (ledger or Ledger()).phase("device_copy"):
        return torch.jit.load(str(file), map_location=device.target).eval()


def _load_script(file: Path) -> Any:
    try:
        return torch.jit.load(str(file), map_location="cpu").eval()
    except Exception as e:  # torch raises whatever its deserializer met
        raise BadModel(f"{file}: torch {torch.__version__} cannot load it as TorchScript: {short(e)}") from e


def scripted(file: Path, manifest: Manifest, device: TorchTransfers | None, ledger: Ledger) -> TorchProgram:
    if manifest.inputs is None:
        raise BadModel(f"{file.name} is TorchScript, which does not say the shapes of its inputs: give them in "
                       'model.toml, for example [[inputs]] name = "x", dtype = "float32", shape = ["rows", 4]; '
                       "or use torch.export, model.pt2")  # fmt: skip
    declared = tuple(replace(spec, dtype=spec.dtype or "float32") for spec in manifest.inputs)
    for i, spec in enumerate(declared):
        if spec.dims == UNSAID:
            raise BadModel(f"model.toml: inputs[{i}].shape is missing: {file.name} is TorchScript, which does not say it")
        if spec.dtype not in DTYPES.values():
            raise BadModel(f"model.toml: inputs[{i}].dtype: torch {torch.__version__} has no {spec.dtype} tensors")
    forward = load_script(file, device, ledger).forward
    inputs = _in_order(forward, declared, file)
    lead = (ROWS,) if manifest.rows_axis else ()
    ins = tuple(Found(spec.name, spec.dtype, (*lead, *spec.dims)) for spec in inputs)
    return TorchProgram("torchscript", forward, ins, _seen_outputs(forward, inputs, manifest, file, device))


def _in_order(forward: Any, inputs: Sequence[TensorSpec], file: Path) -> Sequence[TensorSpec]:
    """The manifest's inputs in the order of the arguments: by name when the names fit, else as they stand."""
    arguments = forward.schema.arguments[1:]  # without self
    names = [a.name for a in arguments]
    by_name = {spec.name: spec for spec in inputs}
    needed = [a.name for a in arguments if not a.has_default_value()]
    if not len(needed) <= len(inputs) <= len(names):
        raise BadModel(f"model.toml: [[inputs]] has {len(inputs)} entries, but {file.name} takes {', '.join(names)}")
    if set(by_name) <= set(names):
        return [by_name[name] for name in names[: len(inputs)] if name in by_name]
    if set(by_name) & set(names):
        stray = next(name for name in by_name if name not in names)
        raise BadModel(f"model.toml: inputs: {stray!r} is no argument of {file.name}, which takes {', '.join(names)}")
    return inputs


def _seen_outputs(
    forward: Forward, inputs: Sequence[TensorSpec], manifest: Manifest, file: Path, device: TorchTransfers | None
) -> tuple[Found, ...]:
    """Names and dtypes of the outputs: those of the manifest, or what a run on zeros gives. Shapes are learnt later."""
    if manifest.outputs is not None and all(spec.dtype for spec in manifest.outputs):
        return tuple(Found(spec.name, spec.dtype, None) for spec in manifest.outputs)
    names = sorted({d for spec in inputs for d in spec.dims if isinstance(d, str)})
    arrays = trial_inputs(inputs, ROWS_TRIED[0] if manifest.rows_axis else None, sizes_tried(names, 0))
    tensors = [
        device.put(x, TORCH_DTYPES[spec.dtype]) if device is not None else tensor(x, spec.dtype == "bfloat16")
        for x, spec in zip(arrays, inputs, strict=True)
    ]
    try:
        with torch.inference_mode():
            keys, values = flat(forward(*tensors))
    except Exception as e:  # whatever the program raises
        shapes = ", ".join(str(list(t.shape)) for t in tensors)
        raise BadModel(f"{file}: a trial run on zeros of shapes {shapes} failed: {short(e)}; correct [[inputs]] "
                       "or say [[outputs]] in model.toml") from e  # fmt: skip
    named = zip(_output_names(keys, len(values), manifest), values, strict=True)
    return tuple(Found(name, dtype_name(name, value.dtype, file), None) for name, value in named)


def _output_names(keys: Sequence[str], count: int, manifest: Manifest) -> list[str]:
    """A dict names its values. Otherwise the manifest's names go to the outputs in their order."""
    if len(keys) == count:
        return [str(key) for key in keys]
    if manifest.outputs is not None and len(manifest.outputs) == count:
        return [spec.name for spec in manifest.outputs]
    return [f"output_{i}" for i in range(count)]
