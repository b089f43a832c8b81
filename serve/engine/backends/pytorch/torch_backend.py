"""PyTorch programs: torch.export archives (.pt2) and TorchScript (.pt). The only file that imports torch.

A .pt2 says the names and shapes of its inputs and outputs, TorchScript says only names, so there the manifest gives the
inputs and trial runs show the outputs. A pickled checkpoint holds no program and is refused: that is for a handler. On a GPU
arrays travel by torch_device.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.export.passes

from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.manifest import ROWS, UNSAID, Manifest
from evenkeel.serve.contract.signature import Signature, TensorSpec
from evenkeel.serve.engine.backends.base import Array, Capabilities, LoadOptions
from evenkeel.serve.engine.backends.formats import kind_of
from evenkeel.serve.engine.backends.gpu.assigned_device import CPU, facts
from evenkeel.serve.engine.backends.gpu.cuda_graphs import Graphs
from evenkeel.serve.engine.backends.model_shapes import ROWS_TRIED, Dim, Found, settle, sizes_tried, trial_inputs
from evenkeel.serve.engine.backends.pytorch.torch_device import Driver, TorchTransfers, chosen
from evenkeel.serve.engine.backends.pytorch.torch_graphs import TorchGraph
from evenkeel.serve.engine.foreign import text_of
from evenkeel.serve.engine.models.startup import Ledger
from evenkeel.serve.errors import BadModel, ModelFailed

# uint16, uint32 and uint64 are missing in older versions.
DTYPES = {getattr(torch, name): name for name in (
    "float16", "bfloat16", "float32", "float64", "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64",
    "uint64") if hasattr(torch, name)}  # fmt: skip
TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}
MESSAGE_CHARS_MAX = 400
ROWS_COMPILED = (1, 2, 3)  # one is compiled for itself; two are the first of any number, and three show that it holds
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


class PytorchBackend:
    @property
    def capabilities(self) -> Capabilities:
        return Capabilities()

    def __init__(
        self, program: TorchProgram, manifest: Manifest, options: LoadOptions, device: TorchTransfers | None = None
    ) -> None:
        self._program = program
        self._where = facts(options, "cuda" if device is not None else CPU)
        settled = settle(program.ins, program.outs, manifest, self._runs)
        self.signature, self._batching = settled.signature, settled.batching
        self._run = self._runs(self.signature)
        self._compiled = "off"
        if program.compiled is not None:
            with options.ledger.phase("compile"):
                self._use_compiled(program, program.compiled)

    def _use_compiled(self, program: TorchProgram, compiled: Forward) -> None:
        """Compile now, for one row and for several, or go on without and say why."""
        plain = self._run
        self._program = replace(program, forward=compiled)
        self._run = self._runs(self.signature)
        names = sorted({d for spec in self.signature.inputs for d in spec.dims if isinstance(d, str)})
        limit = program.rows_max or max(ROWS_COMPILED)
        tried = [n for n in ROWS_COMPILED if n <= limit] if self.signature.rows_axis else [None]
        try:
            for i, rows in enumerate(tried):
                self._run(trial_inputs(self.signature.inputs, rows, sizes_tried(names, i)))
            self._compiled = "by torch.compile, inductor"
        except Exception as e:  # the compilers behind torch.compile raise whatever they meet
            self._program, self._run = program, plain
            self._compiled = f"no: {_short(e)}"
            advice = "install g++ in the image" if "compiler" in text_of(e).lower() else "take compile = true out of model.toml"
            log(
                "not_compiled",
                f"compile = true, but torch.compile failed, so the model is served as it is: {_short(e)}; {advice}",
            )

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        try:
            parts = self._parts(inputs)
            return self._run(inputs) if len(parts) == 1 else _joined([self._run(part) for part in parts])
        except ModelFailed:
            raise
        except Exception as e:  # torch raises RuntimeError, AssertionError, ValueError and its own
            raise ModelFailed(f"torch: {_short(e)}") from e

    def _parts(self, inputs: Sequence[Array]) -> list[Sequence[Array]]:
        """The batch, cut where it is beyond the bound of the export."""
        limit = self._program.rows_max
        rows = inputs[0].shape[0] if limit is not None and self.signature.rows_axis else 0
        if limit is None or rows <= limit:
            return [inputs]
        return [[x[at : at + limit] for x in inputs] for at in range(0, rows, limit)]

    def describe(self) -> Mapping[str, Any]:
        return {"framework": f"torch {torch.__version__}", "format": self._program.format, **self._where,
                "threads": torch.get_num_threads(), "batching": self._batching, "compiled": self._compiled}  # fmt: skip

    def _runs(self, signature: Signature) -> Callable[[Sequence[Array]], Sequence[Array]]:
        forward = self._program.forward
        ours = [spec.name for spec in signature.inputs]
        order = [ours.index(f.name) for f in self._program.ins]
        bits = [f.dtype == "bfloat16" for f in self._program.ins]
        places = {f.name: i for i, f in enumerate(self._program.outs)}
        wanted = [places[spec.name] for spec in signature.outputs]

        def run(inputs: Sequence[Array]) -> Sequence[Array]:
            tensors = [_tensor(inputs[place], is_bits) for place, is_bits in zip(order, bits, strict=True)]
            with torch.inference_mode():
                outputs = _flat(forward(*tensors))[1]
                if len(outputs) != len(places):
                    raise ModelFailed(f"the model gave {len(outputs)} outputs where {len(places)} were expected")
                return [_array(outputs[place]) for place in wanted]

        return run


class PytorchOnDevice(PytorchBackend):
    """On a GPU: a batch is launched, and completed later. `run` is both."""

    def __init__(self, program: TorchProgram, manifest: Manifest, options: LoadOptions, device: TorchTransfers) -> None:
        self._device, self._graphs = device, cast(Graphs[TorchGraph] | None, None)
        super().__init__(program, manifest, options, device)
        if manifest.gpu.graphs:
            self._graphs = device.graphs(self.signature.rows_axis)
            self._run = self._runs(self.signature)

    def _runs(self, signature: Signature) -> TorchDeviceRun:
        ours, outs = [spec.name for spec in signature.inputs], self._program.outs
        places = {f.name: i for i, f in enumerate(outs)}
        return TorchDeviceRun(
            self._device, self._program.forward,
            [(ours.index(f.name), TORCH_DTYPES[f.dtype]) for f in self._program.ins], len(outs),
            [(places[spec.name], TORCH_DTYPES[outs[places[spec.name]].dtype]) for spec in signature.outputs],
            signature.rows_axis, self._graphs)  # fmt: skip

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(launching=self, preparing=self)

    def prepare(self, inputs: Sequence[Array]) -> None:
        run = self._run
        assert isinstance(run, TorchDeviceRun), "made by _runs above"
        if len(self._parts(inputs)) > 1:
            return
        with suppress(Exception):  # foreign code; whoever runs it next meets that error where it is told
            rows = inputs[0].shape[0] if self.signature.rows_axis else 1
            self._device.measure(rows, lambda: run.run(inputs, None))
            if self._graphs is not None:
                self._graphs.add(run, inputs)

    def describe(self) -> Mapping[str, Any]:
        graphs = "off" if self._graphs is None else self._graphs.describe()
        return {**super().describe(), **self._device.describe(), "graphs": graphs}

    def lend(self, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        run = self._run
        assert isinstance(run, TorchDeviceRun), "made by _runs above"
        return run.lend(shapes)

    def launch(self, inputs: Sequence[Array]) -> list[TorchPendingOutputs]:
        run = self._run
        assert isinstance(run, TorchDeviceRun), "made by _runs above"
        with translated():
            return [run.launch(part) for part in self._parts(inputs)]

    def complete(self, ticket: list[TorchPendingOutputs]) -> Sequence[Array]:
        with translated():
            parts = [landing.wait() for landing in ticket]
        return parts[0] if len(parts) == 1 else _joined(parts)


@dataclass(frozen=True, slots=True)
class TorchPendingOutputs:
    """Outputs on their way to the host."""

    device: TorchTransfers
    back: list[torch.Tensor]
    mark: Any

    def wait(self) -> list[Array]:
        self.device.wait(self.mark)
        return [_array(t) for t in self.back]


@dataclass(frozen=True, slots=True)
class TorchDeviceRun:
    """`takes`: for each argument of the program its place in the inputs, and its dtype. `gives`: the same for the outputs."""

    device: TorchTransfers
    forward: Forward
    takes: list[tuple[int, torch.dtype]]
    outputs: int
    gives: list[tuple[int, torch.dtype]]
    rows_axis: bool
    graphs: Graphs[TorchGraph] | None = None

    def __call__(self, inputs: Sequence[Array]) -> Sequence[Array]:
        return self.launch(inputs).wait()

    def launch(self, inputs: Sequence[Array]) -> TorchPendingOutputs:
        return self._launch(inputs, None if self.graphs is None else self.graphs.best(inputs))

    def lend(self, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """Of the inputs in the order of the signature, which is that of the places in `takes`."""
        dtypes = dict(self.takes)
        return self.device.lend([(shape, dtypes[place]) for place, shape in enumerate(shapes)])

    def run(self, inputs: Sequence[Array], by: TorchGraph | None) -> list[Array]:
        return self._launch(inputs, by).wait()

    def record(self, inputs: Sequence[Array]) -> TorchGraph:
        with torch.inference_mode():
            return self.device.recorded(self.compute, self._put(inputs), self.rows_axis)

    def allocated_bytes(self) -> int:
        return self.device.allocated_bytes()

    def _launch(self, inputs: Sequence[Array], by: TorchGraph | None) -> TorchPendingOutputs:
        with torch.inference_mode():
            gives = (self.compute if by is None else by.run)(self._put(inputs))
            return TorchPendingOutputs(self.device, *self.device.begin_get(gives, [dtype for _, dtype in self.gives]))

    def _put(self, inputs: Sequence[Array]) -> list[torch.Tensor]:
        tensors = [self.device.put(inputs[place], dtype) for place, dtype in self.takes]
        self.device.launched()
        return tensors

    def compute(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """On the device, from there to there: in the order of `takes` and of `gives`."""
        with self.device.arithmetic():
            outputs = _flat(self.forward(*tensors))[1]
        if len(outputs) != self.outputs:
            raise ModelFailed(f"the model gave {len(outputs)} outputs where {self.outputs} were expected")
        return [outputs[at] for at, _ in self.gives]


@contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except ModelFailed:
        raise
    except Exception as e:  # torch raises RuntimeError, AssertionError, ValueError and its own
        raise ModelFailed(f"torch: {_short(e)}") from e


def _joined(parts: Sequence[Sequence[Array]]) -> list[Array]:
    return [np.concatenate(same) for same in zip(*parts, strict=True)]


def load(manifest: Manifest, options: LoadOptions, driver: Driver | None = None) -> PytorchBackend:
    """`driver`: of the GPU, where a test has one that is scripted."""
    assert manifest.file is not None, "the manifest names a file for every backend but echo"
    torch.set_num_threads(manifest.threads or options.threads)
    if torch.get_num_interop_threads() != 1:
        with suppress(RuntimeError):  # too late once torch has run anything in parallel; then it stays as it is
            torch.set_num_interop_threads(1)
    kind, text = kind_of(manifest.file)
    device = chosen(torch, manifest.gpu, options, driver)
    if kind == "pt2":
        program = exported(manifest.file, manifest, device, options.ledger)
        return _backend(with_compiled(program) if manifest.compile else program, manifest, options, device)
    if kind == "torchscript":
        if manifest.compile:
            raise BadModel(f"model.toml: compile = true needs a torch.export archive; {manifest.file.name} is TorchScript, "
                           "which is compiled already")  # fmt: skip
        return _backend(scripted(manifest.file, manifest, device, options.ledger), manifest, options, device)
    if kind in ("checkpoint", "pickle"):
        raise BadModel(f"{manifest.file} is a pickled checkpoint, weights without a program: write code/inference.py "
                       "whose model_fn builds the module and loads it with torch.load(..., weights_only=True), or "
                       "export it with torch.export to model.pt2")  # fmt: skip
    but = f" but {text}" if text else ""
    raise BadModel(f"{manifest.file} is neither a torch.export archive nor TorchScript{but}")


def _backend(program: TorchProgram, manifest: Manifest, options: LoadOptions, device: TorchTransfers | None) -> PytorchBackend:
    return PytorchOnDevice(program, manifest, options, device) if device else PytorchBackend(program, manifest, options)


# torch.export ---------------------------------------------------------------------------------------------------------


def exported(file: Path, manifest: Manifest, device: TorchTransfers | None, ledger: Ledger) -> TorchProgram:
    try:
        program = torch.export.load(str(file))
        module = program.module()
    except Exception as e:  # torch raises whatever its deserializer met
        raise BadModel(f"{file}: torch {torch.__version__} cannot load it: {_short(e)}; was it saved by a newer torch, "
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
    """Sizes stay symbols, so that one row and any number of rows are two compilations and not one for each size."""
    import torch._inductor.config as inductor

    inductor.cpp_cache_precompile_headers = False  # they would stay behind outside our scratch folder
    inductor.compile_threads = 1  # else it starts a pool of processes, which outlives the need for it
    return replace(program, compiled=torch.compile(program.forward, dynamic=True))


def _upper_bound(program: Any, symbol: str) -> int | None:
    """The most rows that the export allows. Infinity is a symbol of its own there, hence the text."""
    bound = next((str(r.upper) for s, r in program.range_constraints.items() if str(s) == symbol), "")
    return int(bound) if bound.isdigit() else None


def _found(name: str, value: Any, file: Path) -> Found:
    if not isinstance(value, torch.Tensor):
        raise BadModel(f"{file}: {name!r} is not a tensor but {type(value).__name__}: export a module that takes and "
                       "gives tensors only")  # fmt: skip
    shape: tuple[Dim, ...] = tuple(d if isinstance(d, int) else str(d) for d in value.shape)
    return Found(name, _dtype_name(name, value.dtype, file), shape)


# TorchScript ----------------------------------------------------------------------------------------------------------


def load_script(file: Path, device: TorchTransfers | None = None, ledger: Ledger | None = None) -> Any:
    """On a GPU it is read twice, so that a file that cannot be read is told from a device that cannot take it."""
    found = _load_script(file)
    if device is None:
        return found
    with (ledger or Ledger()).phase("device_copy"):
        return torch.jit.load(str(file), map_location=device.target).eval()


def _load_script(file: Path) -> Any:
    try:
        return torch.jit.load(str(file), map_location="cpu").eval()
    except Exception as e:  # torch raises whatever its deserializer met
        raise BadModel(f"{file}: torch {torch.__version__} cannot load it as TorchScript: {_short(e)}") from e


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
        device.put(x, TORCH_DTYPES[spec.dtype]) if device is not None else _tensor(x, spec.dtype == "bfloat16")
        for x, spec in zip(arrays, inputs, strict=True)
    ]
    try:
        with torch.inference_mode():
            keys, values = _flat(forward(*tensors))
    except Exception as e:  # whatever the program raises
        shapes = ", ".join(str(list(t.shape)) for t in tensors)
        raise BadModel(f"{file}: a trial run on zeros of shapes {shapes} failed: {_short(e)}; correct [[inputs]] "
                       "or say [[outputs]] in model.toml") from e  # fmt: skip
    named = zip(_output_names(keys, len(values), manifest), values, strict=True)
    return tuple(Found(name, _dtype_name(name, value.dtype, file), None) for name, value in named)


# Tensors and arrays ---------------------------------------------------------------------------------------------------


def _tensor(array: Array, is_bits: bool) -> torch.Tensor:
    if not array.flags.writeable:  # torch has no read-only tensors, and warns
        array = array.copy()
    tensor = torch.from_numpy(array.view(np.int16) if is_bits else array)
    return tensor.view(torch.bfloat16) if is_bits else tensor


def _array(tensor: torch.Tensor) -> Array:
    if tensor.dtype is torch.bfloat16:
        bits: Array = tensor.view(torch.int16).numpy().view(np.uint16)
        return bits
    array: Array = tensor.detach().numpy()
    return array


def _flat(result: Any) -> tuple[list[str], list[torch.Tensor]]:
    """What a module may return: one tensor, a tuple or list of them, or a dict of them, whose keys are the names."""
    keys = [str(key) for key in result] if isinstance(result, dict) else []
    values = list(result.values()) if isinstance(result, dict) else result
    values = [values] if isinstance(values, torch.Tensor) else values
    if not isinstance(values, list | tuple) or not all(isinstance(value, torch.Tensor) for value in values):
        raise ModelFailed("the model must give a tensor, a tuple or list of tensors, or a dict of tensors")
    return keys, list(values)


def _output_names(keys: Sequence[str], count: int, manifest: Manifest) -> list[str]:
    """A dict names its values. Otherwise the manifest's names go to the outputs in their order."""
    if len(keys) == count:
        return [str(key) for key in keys]
    if manifest.outputs is not None and len(manifest.outputs) == count:
        return [spec.name for spec in manifest.outputs]
    return [f"output_{i}" for i in range(count)]


def _dtype_name(name: str, dtype: torch.dtype, file: Path) -> str:
    if dtype not in DTYPES:
        raise BadModel(f"{file}: {name!r} has dtype {dtype}, which cannot travel: convert it inside the model")
    return DTYPES[dtype]


def _short(e: Exception) -> str:
    """One line: TorchScript puts its own traceback first, everything else the C++ one last."""
    lines = [line.strip() for line in text_of(e).splitlines() if line.strip()] or [type(e).__name__]
    text = lines[-1] if "TorchScript" in lines[0] else lines[0]
    return text if len(text) <= MESSAGE_CHARS_MAX else text[:MESSAGE_CHARS_MAX] + "…"
