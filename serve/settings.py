"""What each part of the data plane is told at start: frozen records, handed down as one JSON argument.

Values are validated in container/environment.py, which alone reads the environment. Units are in the names.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, TypeVar

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what clients may ask for."""

    request_timeout_s: float = 60.0
    body_bytes_max: int = 100 * MIB
    body_timeout_s: float = 30.0  # silence in the middle of a request; longer helps slow links, shorter frees memory
    header_timeout_s: float = 10.0  # from the first byte of a request to the end of its head
    body_rate: float = 1024.0  # bytes a second that a client has to send, or take; 0: any
    connections_max: int = 4096  # open at once, per front; beyond it only /ping is answered
    keep_alive_s: float = 75.0  # above the platform's own idle reuse, so that it never meets a closing connection
    queue_rows_max: int = 8192  # rows accepted and not answered, per front; more only adds waiting
    queue_wait_s: float = 2.0  # of work that may lie before a request where many wait; longer takes in longer bursts
    queue_bytes_max: int = 1024 * MIB  # bytes of slots in use, per front
    stream_timeout_s: float = 480.0  # of a streamed answer from its first part to its end: the platform's eight minutes
    finish_s: float = 20.0  # once the container stops, requests may take so long; then each is told why it ends
    memory_bytes: int = 0  # that were free when the container started; 0: not known
    batch: bool = False  # a batch transform job: answers of lines end with a newline


@dataclass(frozen=True, slots=True)
class FrontSettings:
    """One gunicorn with its front workers."""

    listen_fd: int
    status_fd: int
    fronts: int
    engine_sockets: tuple[str, ...]
    limits: Limits
    default_accept: str | None
    drain_s: float
    log_text: bool
    timeout_s: int  # a worker whose event loop stands still this long is replaced by gunicorn
    access_log: float = 0.0  # share of the requests that get a line
    self_check_s: float = 0.0  # an engine that has said nothing for so long is asked something; 0: never
    log_fd: int = 1
    models_fd: int = -1  # the table of models, where there are many; -1: there is one
    models_dir: str = ""  # where folders of models may lie
    supervisor: str = ""  # where it is asked to load and unload


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """One engine process. Which model it is to load it is told by command, see serve/contract/model_order.py."""

    place: int
    epoch: int
    listen_fd: int
    status_fd: int
    threads: int
    log_text: bool
    log_fd: int
    command_fd: int = -1  # the socket on which it is told what to do; -1 until it is started
    hugging_face: bool = False  # a handler without an input_fn reads bodies as AWS's Hugging Face containers do
    device: str = ""  # the accelerator it shall use, the only one that CUDA_VISIBLE_DEVICES shows it; empty: none
    many: bool = False  # it begins with no model, and is told of each when it serves
    sharers: int = 1  # engines of this version on that accelerator
    require_gpu: bool = False  # a model that cannot use its device is a failed start
    cache_dir: str = ""  # for what its model's framework builds at a start and the next start may use; empty: none
    # The spare place from which it waits for its own, see serve/engine/models/succession.py; -1: it has its own.
    successor_of: int = -1

    @property
    def first_place(self) -> int:
        """Where on the status page it begins to tell of itself."""
        return self.place if self.successor_of < 0 else self.successor_of


Record = TypeVar("Record", FrontSettings, EngineSettings)


def dump(settings: FrontSettings | EngineSettings) -> str:
    return json.dumps(dataclasses.asdict(settings))


def parse(kind: type[Record], text: str) -> Record:
    """The inverse of `dump`. Only our own supervisor writes this, so a mismatch is a bug, not an input error."""
    data: dict[str, Any] = json.loads(text)
    if "limits" in data:
        data["limits"] = Limits(**data["limits"])
    if "engine_sockets" in data:
        data["engine_sockets"] = tuple(data["engine_sockets"])
    return kind(**data)
