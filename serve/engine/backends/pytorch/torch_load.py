"""From a file to a backend. A pickled checkpoint holds no program and is refused: that is for a handler."""

from __future__ import annotations

from contextlib import suppress

from evenkeel.serve.contract.manifest import Manifest
from evenkeel.serve.engine.backends.base import LoadOptions
from evenkeel.serve.engine.backends.formats import kind_of
from evenkeel.serve.engine.backends.pytorch.torch_backend import PytorchBackend
from evenkeel.serve.engine.backends.pytorch.torch_device import Driver, TorchTransfers, chosen
from evenkeel.serve.engine.backends.pytorch.torch_on_device import PytorchOnDevice
from evenkeel.serve.engine.backends.pytorch.torch_program import TorchProgram, exported, scripted, with_compiled
from evenkeel.serve.engine.backends.pytorch.torch_tensors import torch
from evenkeel.serve.errors import BadModel


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
