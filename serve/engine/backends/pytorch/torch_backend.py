"""PyTorch programs as a backend. `run` is on the host; torch_on_device.py has the other way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.manifest import Manifest
from evenkeel.serve.contract.signature import Signature
from evenkeel.serve.engine.backends.base import Array, Capabilities, LoadOptions
from evenkeel.serve.engine.backends.gpu.assigned_device import CPU, facts
from evenkeel.serve.engine.backends.model_shapes import settle
from evenkeel.serve.engine.backends.pytorch.torch_device import TorchTransfers
from evenkeel.serve.engine.backends.pytorch.torch_program import Forward, TorchProgram
from evenkeel.serve.engine.backends.pytorch.torch_tensors import array, flat, joined, short, tensor, torch
from evenkeel.serve.engine.backends.trial_runs import sizes_tried, trial_inputs
from evenkeel.serve.engine.foreign import text_of
from evenkeel.serve.errors import ModelFailed

ROWS_COMPILED = (1, 2, 3)  # one is compiled for itself; two are the first of any number, and three show that it holds


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
            self._compiled = f"no: {short(e)}"
            advice = "install g++ in the image" if "compiler" in text_of(e).lower() else "take compile = true out of model.toml"
            log(
                "not_compiled",
                f"compile = true, but torch.compile failed, so the model is served as it is: {short(e)}; {advice}",
            )

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        try:
            parts = self._parts(inputs)
            return self._run(inputs) if len(parts) == 1 else joined([self._run(part) for part in parts])
        except ModelFailed:
            raise
        except Exception as e:  # torch raises RuntimeError, AssertionError, ValueError and its own
            raise ModelFailed(f"torch: {short(e)}") from e

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
            tensors = [tensor(inputs[place], is_bits) for place, is_bits in zip(order, bits, strict=True)]
            with torch.inference_mode():
                outputs = flat(forward(*tensors))[1]
                if len(outputs) != len(places):
                    raise ModelFailed(f"the model gave {len(outputs)} outputs where {len(places)} were expected")
                return [array(outputs[place]) for place in wanted]

        return run
