"""The sidecar as a child of the supervisor, and what leads people to it in the run directory: its socket and the record."""

from __future__ import annotations

import os
import signal
import socket
import time

from evenkeel.container.environment import Environment
from evenkeel.container.run_record import RunRecord
from evenkeel.container.supervise import listeners
from evenkeel.container.supervise.child import Child, tell
from evenkeel.container.supervise.run_dir import RunDir
from evenkeel.serve.contract.logline import sink
from evenkeel.serve.contract.process_setup import role_command
from evenkeel.serve.contract.status_page import Main, StatusPage
from evenkeel.sidecar import settings as sidecar_settings
from evenkeel.sidecar.settings import ADMIN_SOCKET, SUPERVISOR_SOCKET, SidecarSettings


class SidecarChild:
    """The sidecar's child, and the Unix socket for changing calls, which is made anew with the run directory."""

    def __init__(
        self, env: Environment, page: StatusPage, side: socket.socket, run_dir: RunDir, text: bool, data_port: int
    ) -> None:
        self._env, self._page, self._side, self._run_dir, self._text = env, page, side, run_dir, text
        self.record = RunRecord(os.getpid(), data_port, listeners.page_url(side), str(env.model_dir.absolute()))
        self.record.write(run_dir.path)
        # Goes down in a memfd: arguments can be read by everybody on the machine.
        self._token_fd = sidecar_settings.hold_token(env.settings.admin_token)
        self.commands = run_dir.listen(SUPERVISOR_SOCKET)  # on which the supervisor is told what changing calls ask for
        self._admin = run_dir.listen(ADMIN_SOCKET)
        self.child = Child("sidecar", 0, self._command, self._fds, environ=env.without_devices, captured=True)

    @property
    def _fds(self) -> tuple[int, ...]:
        return (self._side.fileno(), self._page.fd, self._admin.fd, self.commands.node_fd, self._token_fd, sink().fd)

    def _command(self, epoch: int) -> list[str]:
        env = self._env
        return role_command("evenkeel.sidecar.process", sidecar_settings.dump(SidecarSettings(
            listen_fd=self._side.fileno(), status_fd=self._page.fd, admin_fd=self._admin.fd, token_fd=self._token_fd,
            supervisor=self.commands.address, run_dir=str(self._run_dir.path), log_text=self._text, log_fd=sink().fd,
            emf_period_s=env.emf_period_s, emf_namespace=env.settings.emf_namespace, host=env.sidecar[0],
            grpc_port=env.settings.grpc_health_port, shape_log=env.settings.shape_log)))  # fmt: skip

    def mend_socket(self) -> None:
        """Where somebody has removed it: another one, for the next sidecar. This one is told to leave; /ping does not mind."""
        if not self._page.main.count[Main.LEAVING]:
            self._run_dir.mend(ADMIN_SOCKET, time.monotonic(), self._listen_anew)

    def _listen_anew(self) -> None:
        before, self._admin = self._admin, self._run_dir.listen(ADMIN_SOCKET)
        before.close()
        self.record.write(self._run_dir.path)
        self.child.fds = self._fds
        if self.child.process is not None:
            tell(self.child, signal.SIGTERM)
