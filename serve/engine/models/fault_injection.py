"""Faults on purpose: a wrapper around the backend that crashes, hangs, slows or spoils the batches it is told to.

Put there once, after warm-up, and only when EVENKEEL_FAULTS is set; without it nothing of this is on the way of a
batch. It knows which batch it is and nothing of requests. The grammar is in serve/contract/fault_grammar.py.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from evenkeel.serve.contract.fault_grammar import PlannedFault, parse
from evenkeel.serve.contract.logline import log
from evenkeel.serve.engine.backends.base import (
    Array,
    Capabilities,
    LaunchingBackend,
    RawBackend,
    RawRequest,
    RawResult,
    TensorBackend,
)
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.errors import BadModel

LOG_EVERY_S = 1.0  # faults that a process survives may come with every batch; those that it does not are always told
FATAL = ("crash", "hang")


def apply(replica: Replica, text: str) -> None:
    """Give the replica the faults that the setting names. Raises BadModel."""
    faults = parse(text)
    if replica.signature is not None:
        assert replica.tensors is not None, "a signature is of tensors"
        launching = replica.capabilities.launching
        faulty = FaultyTensors(replica.tensors, Injector(faults), text)
        replica.tensors = faulty if launching is None else FaultyLaunches(launching, Injector(faults), text)
        return
    if any(f.kind == "nan" for f in faults):
        raise BadModel("EVENKEEL_FAULTS: nan needs a model that answers in tensors; a handler encodes its answers itself")
    assert replica.handler is not None, "the other kind of replica"
    replica.handler = FaultyHandler(replica.handler, Injector(faults), text)


class Injector:
    """Counts batches and does what is due. `chance` gives numbers in [0, 1)."""

    def __init__(self, faults: Sequence[PlannedFault], chance: Callable[[], float] = random.random) -> None:
        self._faults, self._chance = faults, chance
        self._batches = self._injected = 0
        self._logged_at_s = 0.0

    def next_batch(self) -> bool:
        """Whether its answer shall hold NaN. Everything else happens here; MemoryError is raised as by a model."""
        self._batches += 1
        spoilt = False
        for fault in [f for f in self._faults if f.due(self._batches, self._chance())]:
            self._injected += 1
            self._tell(fault)
            if fault.kind == "slow":
                time.sleep(fault.ms / 1000)
            elif fault.kind == "nan":
                spoilt = True
            elif fault.kind == "oom":
                raise MemoryError("injected by EVENKEEL_FAULTS")
            elif fault.kind == "crash":
                crash()
            elif fault.kind == "hang":
                hang()
        return spoilt

    def _tell(self, fault: PlannedFault) -> None:
        now_s = time.monotonic()
        if fault.kind in FATAL or now_s - self._logged_at_s >= LOG_EVERY_S:
            self._logged_at_s = now_s
            log("fault_injected", f"{fault.kind} on purpose (EVENKEEL_FAULTS)", level="warning", kind=fault.kind,
                batch=self._batches, injected=self._injected)  # fmt: skip


def crash() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a fault on purpose must not fill the disk with cores
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGSEGV)


def hang() -> None:
    while True:
        time.sleep(60)


class FaultyTensors:
    capabilities = Capabilities()

    def __init__(self, backend: TensorBackend, injector: Injector, text: str) -> None:
        self.signature = backend.signature
        self._backend, self._injector, self._text = backend, injector, text

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        spoilt = self._injector.next_batch()
        outputs = self._backend.run(inputs)
        return [_with_nan(a) for a in outputs] if spoilt else outputs

    def describe(self) -> Mapping[str, Any]:
        return {**self._backend.describe(), "faults": self._text}


class FaultyLaunches(FaultyTensors):
    """The same where batches are launched: what is due happens then."""

    def __init__(self, backend: LaunchingBackend, injector: Injector, text: str) -> None:
        super().__init__(backend, injector, text)
        self._device = backend
        self.capabilities = Capabilities(launching=self)

    def lend(self, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        return self._device.lend(shapes)

    def launch(self, inputs: Sequence[Array]) -> tuple[Any, bool]:
        spoilt = self._injector.next_batch()
        return self._device.launch(inputs), spoilt

    def complete(self, ticket: tuple[Any, bool]) -> Sequence[Array]:
        outputs = self._device.complete(ticket[0])
        return [_with_nan(a) for a in outputs] if ticket[1] else outputs


class FaultyHandler:
    def __init__(self, backend: RawBackend, injector: Injector, text: str) -> None:
        self.capabilities = backend.capabilities
        self._backend, self._injector, self._text = backend, injector, text

    def handle(self, requests: Sequence[RawRequest]) -> Sequence[RawResult]:
        try:
            self._injector.next_batch()
        except MemoryError as e:
            return [e for _ in requests]
        return self._backend.handle(requests)

    def describe(self) -> Mapping[str, Any]:
        return {**self._backend.describe(), "faults": self._text}


def _with_nan(output: Any) -> Array:
    """A copy whose first row is NaN, if it can hold one."""
    spoilt: Array = np.array(output)
    if spoilt.dtype.kind == "f" and spoilt.size:
        spoilt[(0,) if spoilt.ndim else ()] = np.nan
    return spoilt
