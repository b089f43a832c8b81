"""What the supervisor says to a wish that it cannot look into. It is PID 1: no folder may end it."""

from __future__ import annotations

from pathlib import Path

import pytest

from container.versions import Rules, Versions
from serve.contract import fingerprint, versions
from serve.contract.status import StatusPage
from tests.support.versioned import tensor_version


@pytest.mark.parametrize("where", ["the names", "the files"])
def test_a_folder_that_cannot_be_read_refuses_the_wish_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    for version in "12":
        tensor_version(tmp_path, version)
    asked = Versions(StatusPage.create(), versions.read(tmp_path), "1", Rules(), {})

    def unreadable(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(*((versions, "read") if where == "the names" else (fingerprint, "files")), unreadable)
    said = asked._ask("2", 1.0)
    assert said["how"] == "refused" and "Permission denied" in said["why"]
    assert asked.wanted == "1" and asked.steady
