"""What the supervisor says to a wish that it cannot look into. It is PID 1: no folder may end it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from evenkeel.container.supervise.child import Child
from evenkeel.container.versions.deployer import Deployer, SwapRules
from evenkeel.serve.contract import catalogue, fingerprint
from evenkeel.serve.contract.commands import CommandError
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.status_page import DEVICE_TEXT, Engine, StatusPage
from tests.support.versioned import tensor_version


@pytest.mark.parametrize("where", ["the names", "the files"])
def test_a_folder_that_cannot_be_read_refuses_the_wish_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    for version in "12":
        tensor_version(tmp_path, version)
    asked = Deployer(StatusPage.create(), catalogue.read(tmp_path), "1", SwapRules(), {})

    def unreadable(folder: Path, *program: str) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(*((catalogue, "read") if where == "the names" else (fingerprint, "files")), unreadable)
    with pytest.raises(CommandError, match="Permission denied"):
        asked.use("2")
    assert asked.wanted == "1" and asked.steady


def test_an_old_engine_that_was_about_to_come_back_at_the_switch_is_due_no_more(tmp_path: Path) -> None:
    """Its slot has nothing to load any more, and whoever tries to start it ends PID 1."""
    for version in "12":
        tensor_version(tmp_path, version)
    held = Deployer(StatusPage.create(), catalogue.read(tmp_path), "1", SwapRules(), {})
    for place, slot in enumerate(held.places.slots):
        held.place(slot, Child("engine", place, lambda epoch: [], ()))
    old, new = held.places.slots
    held._progress.wanted = "2"
    held._load(1.0)
    (crashed,) = old.children
    crashed.due_s = 6.0
    held._switch(2.0)
    assert held.serving.version == "2" and old.revision is None
    assert crashed.due_s is None and new.children[0].due_s == 1.0


@pytest.mark.parametrize(
    ("used_gib", "how", "why"),
    [(4, "beside", "of GPU 0 are needed"), (12, "in place", "4096 MiB are left"), (None, "in place", "is not known")],
)
def test_on_a_card_a_version_loads_beside_the_old_one_only_where_both_fit(
    tmp_path: Path, used_gib: int | None, how: str, why: str
) -> None:
    for version in "12":
        tensor_version(tmp_path, version)
    page = StatusPage.create()
    if used_gib is not None:
        gib = 1 << 30
        page.write_text(DEVICE_TEXT, {"devices": [
            {"place": 0, "uuid": "GPU-a", "memory_used_bytes": used_gib * gib, "memory_bytes": 16 * gib}]})  # fmt: skip
    held = Deployer(page, catalogue.read(tmp_path), "1", SwapRules(), {})
    for place, slot in enumerate(held.places.slots):
        held.place(slot, Child("engine", place, lambda epoch: [], (), device="0"))
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        held.places.slots[0].children[0].process = process
        assert "not all of its engines have loaded" in held.use("2")["why"]
        page.engine(0).count[Engine.STATE], page.engine(0).count[Engine.EPOCH] = ReplicaState.READY, 0
        said = held.use("2")
        process.kill()
    assert said["how"] == how and why in said["why"]
