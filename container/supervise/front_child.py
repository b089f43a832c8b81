"""The front as a child of the supervisor: what it is told at its start, and what it inherits."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evenkeel.container.environment import Environment
from evenkeel.container.plan import machine, processes
from evenkeel.container.plan.processes import ProcessPlan
from evenkeel.container.supervise.child import Child
from evenkeel.container.supervise.run_dir import UnixListener
from evenkeel.serve import settings as serve_settings
from evenkeel.serve.contract import cgroup, fingerprint
from evenkeel.serve.contract.logline import log, sink
from evenkeel.serve.contract.model_table import ModelTable
from evenkeel.serve.contract.process_setup import role_command
from evenkeel.serve.contract.status_page import StatusPage
from evenkeel.serve.settings import MIB, FrontSettings


@dataclass(frozen=True, slots=True)
class ManyModels:
    """What fronts need where there are many: the table, where the supervisor is asked, and where folders of models lie."""

    table: ModelTable
    commands: UnixListener
    folder: str


def front(
    env: Environment, plan: ProcessPlan, page: StatusPage, data: socket.socket, sockets: Sequence[UnixListener], text: bool,
    model_bytes: int, many: ManyModels | None = None,
) -> Child:  # fmt: skip
    left_bytes = machine.memory_left(cgroup.ROOT)
    limits = env.limits(processes.queue_bytes(left_bytes, plan, model_bytes))
    limits = dataclasses.replace(limits, memory_bytes=left_bytes)
    queue_mib, wanted = limits.queue_bytes_max / MIB, env.settings.max_body_mb
    if queue_mib < wanted:
        log("bodies_limited", f"bodies over {queue_mib:.4g} MiB are refused with 413: an HTTP worker may hold no more "
            f"(EVENKEEL_QUEUE_MB), {left_bytes // MIB} MiB of memory were left at the start", level="warning")  # fmt: skip
    argument = serve_settings.dump(FrontSettings(
        listen_fd=data.fileno(), status_fd=page.fd, fronts=plan.fronts, limits=limits,
        engine_sockets=tuple(s.address for s in sockets),
        default_accept=env.settings.default_accept or None, drain_s=env.settings.drain_s,
        log_text=text, log_fd=sink().fd, timeout_s=env.settings.front_timeout_s,
        access_log=env.settings.access_log, self_check_s=env.settings.self_check_s,
        models_fd=many.table.fd if many else -1, models_dir=many.folder if many else "",
        supervisor=many.commands.address if many else ""))  # fmt: skip
    fds = (
        data.fileno(),
        page.fd,
        sink().fd,
        *(s.node_fd for s in sockets),
        *((many.table.fd, many.commands.node_fd) if many else ()),
    )
    return Child(
        "front", 0, lambda epoch: role_command("evenkeel.serve.front.process", argument), fds, environ=env.without_devices,
                 captured=True)  # fmt: skip


def files_bytes(folder: Path) -> int:
    """Of a model's files; 0 where they cannot be looked at, of which the engine that loads them tells."""
    try:
        return sum(path.stat().st_size for _, path in fingerprint.files(folder))
    except OSError:
        return 0
