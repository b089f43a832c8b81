"""The seam between the engine and whatever runs a model. One file beside this one per framework.

Two kinds. A *tensor* backend takes named arrays of a batch and gives arrays; everything about bytes is done outside.
A *raw* backend (the Python handler) takes whole request bodies and gives whole reply bodies, since the user's code
decodes them. Backends are called from one thread, know nothing of slots or sockets, and raise errors from
evenkeel.serve.errors; whatever else they raise becomes ModelFailed for the requests of that batch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from evenkeel.serve.contract.manifest import Manifest
from evenkeel.serve.contract.signature import Signature
from evenkeel.serve.engine.models.startup import Ledger

Array = np.ndarray[Any, Any]


class TensorBackend(Protocol):
    """Runs whole batches of arrays. Strings are object arrays of str, bfloat16 is uint16 bit patterns."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def signature(self) -> Signature: ...

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """Inputs in signature order, each (rows, *dims); outputs likewise. May return views of its own memory."""

    def describe(self) -> Mapping[str, Any]:
        """Facts worth showing: framework version, provider, threads, device."""


class LaunchingBackend(TensorBackend, Protocol):
    """A tensor backend that can begin a batch while another runs: see engine/cycle/launch_complete.py."""

    def lend(self, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """Places for the inputs of the next launch, of these shapes and of the signature's types, from where the device copies
        by itself. Uninitialised. A launch of the very same arrays copies nothing on the host; they hold until it, or until the
        next call."""

    def launch(self, inputs: Sequence[Array]) -> Any:
        """Begin the copies and the computation, after those launched before, and return at once with a ticket. The inputs
        are the caller's again, so what is to be copied from them later has been copied to a place of the backend's own."""

    def complete(self, ticket: Any) -> Sequence[Array]:
        """Sleep until it is done; once for each ticket, in the order of the launches. Raises what failed. The outputs
        hold until the batch after the next is launched."""


@dataclass(frozen=True, slots=True)
class BoundRun:
    """`run` raises what the framework raises; `failed` says that as one of our errors."""

    run: Callable[[], object]
    failed: Callable[[Exception], Exception]


class BindingBackend(TensorBackend, Protocol):
    """A tensor backend that can run from the very same memory into the very same memory, time after time."""

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> BoundRun | None:
        """None: not for these types."""


class PreparingBackend(TensorBackend, Protocol):
    """A tensor backend that can make something ready for batches of one shape, in warm-up."""

    def prepare(self, inputs: Sequence[Array]) -> None: ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do beyond running a batch: the backend itself, as one that can, or a plain yes or no."""

    launching: LaunchingBackend | None = None
    binding: BindingBackend | None = None
    preparing: PreparingBackend | None = None
    batched: bool = True  # whether several requests at once are any use to it
    reads_headers: bool = False  # a handler that may ask for those of a request


@dataclass(frozen=True, slots=True)
class RawRequest:
    """One request as it came in. Header names are lower case."""

    body: bytes
    content_type: str
    accept: str
    request_id: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RawReply:
    body: bytes
    content_type: str
    custom_attributes: str | None = None
    status: int = 200  # of 200 to 299: others are errors


@dataclass(slots=True, eq=False)
class RawStream:
    """An answer that comes in parts. What it says of itself holds once its first part is there, or its end.

    `parts` gives no empty part, raises errors as a whole answer would, and is closed when its caller has left.
    """

    parts: Generator[bytes, None, None]
    content_type: str = ""
    custom_attributes: str | None = None
    status: int = 200


RawResult = RawReply | RawStream | Exception


class RawBackend(Protocol):
    """Runs whole requests. One failed request is an exception in its place, never a raise for all."""

    @property
    def capabilities(self) -> Capabilities: ...

    def handle(self, requests: Sequence[RawRequest]) -> Sequence[RawResult]: ...

    def describe(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What the plan gives one replica."""

    threads: int
    device: str = ""  # the accelerator to use, as CUDA_VISIBLE_DEVICES names it: the only one to be seen; empty: the CPUs
    sharers: int = 1  # replicas on that accelerator, this one among them
    require_gpu: bool = False  # whether a model that cannot use it is a failed start
    ledger: Ledger = field(default_factory=Ledger)  # for phases inside loading: device copy, compile
    own_process: bool = False  # the process is this model's alone: a script gets its working directory, arguments and logging
    hugging_face: bool = False  # HF_TASK is set, as for AWS's Hugging Face containers
    cache: Path | None = None  # a folder of this replica's, which outlives its process; None: there is none


Loader = Callable[[Manifest, LoadOptions], TensorBackend | RawBackend]
