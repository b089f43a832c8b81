"""The sidecar keeps the shape log."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from evenkeel.serve.contract.shape_uses import ShapeUse, dump, read, to_json
from evenkeel.serve.contract.status_page import Engine, Main, StatusPage
from evenkeel.sidecar.watch.shape_log import WRITE_EVERY_S, ShapeLog
from tests.support.log_read import logged


@pytest.fixture
def page() -> Iterator[StatusPage]:
    page = StatusPage.create()
    page.main.count[Main.ENGINES] = 2
    yield page
    os.close(page.fd)


def use(rows: int, count: int, dim: int = 8) -> ShapeUse:
    return ShapeUse(((dim,),), ((rows, count),))


def say(page: StatusPage, place: int, *uses: ShapeUse, epoch: int = 1) -> None:
    page.engine(place).count[Engine.EPOCH] = epoch
    page.write_text(place, {"model": {"name": "m"}, "shapes": to_json(uses)})


def test_what_the_engines_met_is_added_up_and_written(page: StatusPage, tmp_path: Path) -> None:
    log = ShapeLog(str(tmp_path / "log"))
    say(page, 0, use(1, 10))
    say(page, 1, use(1, 5), use(4, 2, dim=16))
    log.look(page, 0.0)
    assert read(str(tmp_path / "log")) == [use(1, 15), use(4, 2, dim=16)]
    say(page, 0, use(1, 12))
    log.look(page, WRITE_EVERY_S / 2)
    assert read(str(tmp_path / "log"))[0] == use(1, 15), "not every time it is asked"
    log.look(page, WRITE_EVERY_S)
    assert read(str(tmp_path / "log"))[0] == use(1, 17), "only what is new is added"


def test_the_last_look_is_taken_at_once(page: StatusPage, tmp_path: Path) -> None:
    log = ShapeLog(str(tmp_path / "log"))
    say(page, 0, use(1, 10))
    log.look(page, 0.0)
    say(page, 0, use(1, 11))
    log.look(page, 0.1, last=True)
    assert read(str(tmp_path / "log")) == [use(1, 11)]


def test_an_engine_that_was_started_again_counts_from_nothing(page: StatusPage, tmp_path: Path) -> None:
    log = ShapeLog(str(tmp_path / "log"))
    say(page, 0, use(1, 10))
    log.look(page, 0.0)
    say(page, 0, use(1, 3), epoch=2)
    log.look(page, 10.0)
    assert read(str(tmp_path / "log")) == [use(1, 13)]


def test_what_the_file_held_counts_half_so_that_shapes_out_of_use_fade(page: StatusPage, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(dump("m", [use(1, 100), use(1, 4, dim=99)]))
    log = ShapeLog(str(tmp_path / "log"))
    say(page, 0, use(1, 7))
    log.look(page, 0.0)
    assert read(str(tmp_path / "log")) == [use(1, 57), use(1, 2, dim=99)]


def test_a_damaged_file_is_begun_anew_with_one_line(page: StatusPage, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").write_bytes(b"\0" * 100)
    log = ShapeLog(str(tmp_path / "log"))
    assert logged(capfd).count("is not a shape log") == 1
    say(page, 0, use(1, 7))
    log.look(page, 0.0)
    assert read(str(tmp_path / "log")) == [use(1, 7)]


def test_a_folder_that_is_not_there_costs_one_line_and_nothing_else(
    page: StatusPage, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = ShapeLog(str(tmp_path / "no" / "log"))
    for now_s in (0.0, 10.0, 20.0):
        say(page, 0, use(1, 7 + int(now_s)))
        log.look(page, now_s)
    assert logged(capfd).count("cannot be written") == 1


def test_an_engine_that_says_nothing_or_nonsense_is_passed_over(page: StatusPage, tmp_path: Path) -> None:
    log = ShapeLog(str(tmp_path / "log"))
    page.write_text(0, {"shapes": [{"dims": 3}], "model": None})
    log.look(page, 0.0)
    assert list(tmp_path.iterdir()) == [], "an empty log is not worth a file"


def test_nothing_is_left_beside_the_file(page: StatusPage, tmp_path: Path) -> None:
    say(page, 0, use(1, 7))
    ShapeLog(str(tmp_path / "log")).look(page, 0.0)
    assert [p.name for p in tmp_path.iterdir()] == ["log"]
