"""The verdict in the words of the Open Inference Protocol: what `/v2/health/…` and `/v2/models/…/ready` answer.

One decision for the data port, the sidecar and gRPC. It reads the status page and decides nothing of its own: the
verdict is the sidecar's, a replica's state is its engine's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evenkeel.serve.contract.lifecycle import CLEARS, ReplicaState
from evenkeel.serve.contract.status_page import Engine, Main, StatusPage, serves
from evenkeel.serve.errors import EvenkeelError, NotFound


@dataclass(frozen=True, slots=True)
class HealthAnswer:
    """What to say over HTTP: `status` is 200 or 503."""

    status: int
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What one engine says that it serves. `model` is its text as it stands."""

    place: int
    warm: bool  # its engine is READY
    ready: bool  # and takes traffic
    model: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.model.get("name", ""))

    @property
    def version(self) -> str:
        return str(self.model.get("version", ""))


def served(page: StatusPage) -> list[ServedModel]:
    """The model of every engine that has said so; engines that load their first model have not."""
    models = []
    for place in range(page.main.count[Main.ENGINES]):
        model = page.read_text(place).get("model")
        if isinstance(model, dict) and model.get("name"):
            warm = page.engine(place).count[Engine.STATE] == ReplicaState.READY
            models.append(ServedModel(place, warm, warm and serves(page, place), model))
    return models


def live() -> HealthAnswer:
    return HealthAnswer(200, {"live": True})


def ready(page: StatusPage) -> HealthAnswer:
    return _answer(page, page.verdict().ready, {})


def model_ready(page: StatusPage, name: str, version: str | None = None) -> HealthAnswer:
    """Ready when the container is, and an engine with that model. Raises NotFound for a model that is not served here."""
    models = served(page)
    fitting = [m for m in models if m.name == name and version in (None, m.version)]
    if models and not fitting:
        names = ", ".join(sorted({f"{m.name} version {m.version}" for m in models}))
        wanted = name if version is None else f"{name} version {version}"
        raise NotFound(f"no model {wanted[:200]!r} is served here; there is {names}")
    return _answer(page, page.verdict().ready and any(m.ready for m in fitting), {"name": name})


def _answer(page: StatusPage, is_ready: bool, body: dict[str, Any]) -> HealthAnswer:
    if is_ready:
        return HealthAnswer(200, {**body, "ready": True})
    reason = page.verdict().reason
    return HealthAnswer(503, {**body, "ready": False, "reason": reason.code, "clears_when": CLEARS[reason]})


def error_body(error: EvenkeelError) -> dict[str, Any]:
    """The one shape of every error."""
    return {"error": {"code": error.code, "message": error.message}}
