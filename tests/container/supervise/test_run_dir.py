"""A run directory that cannot be: told by its setting, and nothing is left of the attempt."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.container.supervise.run_dir import RunDir
from evenkeel.serve.errors import BadSetting


def test_a_file_in_its_place_is_told_by_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadSetting, match=r"file.*EVENKEEL_RUN_DIR"):
        RunDir(str(tmp_path / "file"))


def test_one_too_deep_for_sockets_is_told_before_any_is_made(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    with pytest.raises(BadSetting, match="EVENKEEL_RUN_DIR to a shorter path"):
        RunDir(str(deep))
    assert list(deep.iterdir()) == []
