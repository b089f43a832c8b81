"""What `evenkeel serve` says before anything has started."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from evenkeel.container import environment
from evenkeel.container.commands import serve_command, start_progress
from evenkeel.container.commands.start_progress import StartProgress
from evenkeel.container.run_record import RunRecord
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.status_page import Engine, Main, StatusPage
from evenkeel.serve.errors import BadModel


def test_without_a_folder_a_terminal_is_told_how_to_name_one(tmp_path: Path) -> None:
    env = environment.read({})
    env = replace(env, settings=replace(env.settings, model_dir=str(tmp_path / "none")))
    with pytest.raises(BadModel, match=r"which model\? `evenkeel serve FOLDER`"):
        serve_command.serve(env, {}, is_viewed=True)


@pytest.mark.parametrize(
    ("setting", "is_terminal", "text"),
    [("verbose", True, True), ("auto", True, True), ("json", True, False), ("text", False, True), ("verbose", False, False)],
)
def test_a_terminal_gets_words_unless_json_is_wanted(
    setting: str, is_terminal: bool, text: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: is_terminal)
    assert serve_command.writes_text(setting) is text


def test_no_step_is_told_of_a_model_that_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(start_progress, "log", lambda event, message, **more: told.append(message))
    page = StatusPage.create()
    page.main.count[Main.FRONTS], page.main.count[Main.ENGINES] = 1, 1
    progress = StartProgress(page, RunRecord(1, 8080, "", ""), {}, steps=True, then=None)
    for state in (ReplicaState.LOADING, ReplicaState.FAILED):
        page.engine(0).count[Engine.STATE] = state
        progress.look()
    assert told == ["loading the model"]
