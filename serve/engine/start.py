"""What one start of an engine process has in its hands, from its first line to its last."""

from __future__ import annotations

from dataclasses import dataclass

from evenkeel.serve.contract.status_page import StatusPage
from evenkeel.serve.engine.engine_commands import EngineCommands
from evenkeel.serve.engine.models.first_model import FirstModel
from evenkeel.serve.engine.models.replica_life import ReplicaLife
from evenkeel.serve.engine.models.startup import Ledger, process_began_s
from evenkeel.serve.engine.signals import ScriptSignals
from evenkeel.serve.settings import EngineSettings


@dataclass(frozen=True, slots=True)
class Start:
    settings: EngineSettings
    page: StatusPage
    life: ReplicaLife
    ledger: Ledger
    signals: ScriptSignals
    commands: EngineCommands
    first: FirstModel

    @staticmethod
    def of(settings: EngineSettings, signals: ScriptSignals) -> Start:
        page = StatusPage(settings.status_fd)
        life = ReplicaLife(page.engine(settings.first_place))
        first = FirstModel()
        commands = EngineCommands(settings.command_fd, first)
        return Start(settings, page, life, Ledger(began_s=process_began_s()), signals, commands, first)
