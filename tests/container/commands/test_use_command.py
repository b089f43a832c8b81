"""`evenkeel use`: what it makes of the looks that it takes while a version loads."""

from __future__ import annotations

from typing import Any

import pytest

from evenkeel.container.commands import use_command
from evenkeel.container.commands.sidecar_client import CommandFailed, SidecarReply

BUSY = SidecarReply(503, {"error": {"message": "32 connections are open already"}})


def seen(**changes: Any) -> SidecarReply:
    return SidecarReply(200, {"serving": "1", "wanted": "2", "phase": "loading", "failures": [], **changes})


def test_a_look_that_is_refused_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use_command, "LOOK_S", 0.0)
    looks = iter([seen(), BUSY, seen(serving="2", phase="steady")])
    assert use_command.wait("2", lambda: next(looks)) == 0


def test_a_version_that_failed_is_told_with_what_goes_on() -> None:
    failed = seen(wanted="1", failures=[{"version": "2", "message": "no model"}])
    with pytest.raises(CommandFailed) as raised:
        use_command.wait("2", lambda: failed)
    assert str(raised.value) == "version 2 failed: no model; 1 goes on"
