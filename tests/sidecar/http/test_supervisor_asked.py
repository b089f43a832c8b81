"""Changing calls over HTTP become commands to the supervisor, and its answers become theirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from evenkeel.serve.contract.commands import CommandError, Refusal, Verb
from evenkeel.serve.contract.status_page import PLAN_TEXT, StatusPage
from evenkeel.sidecar.rollout_service import RolloutService
from tests.support import sidecar_app
from tests.support.sidecar_app import App
from tests.support.versioned import NAME, tensor_version

USE = f"/models/{NAME}/versions"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    """The supervisor says that version 1 serves; 1 and 2 are on disk."""
    models, page = tmp_path / "models", StatusPage.create()
    for version in "12":
        tensor_version(models, version)
    page.write_text(PLAN_TEXT, {
        "model": {"name": NAME, "version": "1"}, "model_dir": str(models), "swap": {"wanted": "1", "serving": "1"}})  # fmt: skip
    with sidecar_app.serving_sidecar(page, RolloutService(page, tmp_path), tmp_path) as served:
        yield served


def test_a_version_is_asked_for_once_and_the_answer_says_what_comes_of_it(app: App) -> None:
    reply = app.ask(USE, "POST", {"version": "2"})
    assert (reply.status, reply.json) == (202, {"version": "2", "how": "beside", "why": "there is room", "serving": "1"})
    assert app.supervisor.asked == [(Verb.USE, {"version": "2"})]


@pytest.mark.parametrize(("body", "status"), [({"version": "9"}, 404), ({"version": 2}, 400), (b"{", 400), (b"[" * 5000, 400)])
def test_what_cannot_be_is_not_even_asked(app: App, body: object, status: int) -> None:
    assert app.ask(USE, "POST", body).status == status
    assert app.supervisor.asked == []


def test_what_the_supervisor_refuses_is_a_conflict_with_its_reason(app: App) -> None:
    app.supervisor.refusal = CommandError(Refusal.REFUSED, "the container is stopping")
    reply = app.ask(USE, "POST", {"version": "2"})
    assert (reply.status, reply.code, reply.message) == (409, "conflict", "the container is stopping")


@pytest.mark.parametrize("path", [USE, "/drain"])
def test_a_supervisor_that_does_not_answer_is_not_ready_and_says_what_to_do(app: App, path: str) -> None:
    app.supervisor.refusal = CommandError(Refusal.NO_ANSWER, "nothing came")
    reply = app.ask(path, "POST", {"version": "2"})
    assert (reply.status, reply.code) == (503, "not_ready")
    assert reply.message.startswith("the supervisor has not answered; ")


@pytest.mark.parametrize("path", [USE, "/drain"])
@pytest.mark.parametrize("refusal", [Refusal.BUSY, Refusal.LATE])
def test_a_supervisor_that_has_no_time_for_it_is_told_apart_from_one_that_is_silent(
    app: App, path: str, refusal: Refusal
) -> None:
    app.supervisor.refusal = CommandError(refusal, "too many commands at once")
    reply = app.ask(path, "POST", {"version": "2"})
    assert (reply.status, reply.code) == (503, "not_ready")
    assert reply.message == "the supervisor has done nothing: too many commands at once; ask again"


def test_a_drain_says_whether_it_was_under_way_already(app: App) -> None:
    assert [app.ask("/drain", "POST").json["already"] for _ in range(3)] == [False, True, True]
