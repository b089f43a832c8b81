"""What the sidecar makes of the status page."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from evenkeel.serve.contract import poison_page
from evenkeel.serve.contract.lifecycle import Reason, ReplicaState, Verdict, readiness
from evenkeel.serve.contract.poison_page import Fingerprint, Poison
from evenkeel.serve.contract.status_page import (
    Engine,
    EngineView,
    Front,
    Main,
    StatusPage,
    read_engine,
    restart_cell,
    time_bucket,
)
from evenkeel.serve.errors import NUMBER, BadShape, ModelFailed
from evenkeel.sidecar.settings import SidecarSettings, dump, hold_token, parse, read_token
from evenkeel.sidecar.watch import snapshot
from evenkeel.sidecar.watch.snapshot import Remembered, Snapshot


@pytest.fixture
def page() -> Iterator[StatusPage]:
    page = StatusPage.create()
    yield page
    os.close(page.fd)


def engine(page: StatusPage, place: int = 0, **cells: Any) -> EngineView:
    block = page.engine(place)
    for name, value in cells.items():
        (block.value if isinstance(value, float) else block.count)[Engine[name]] = value
    return read_engine(page, place)


ME = os.getpid()


def test_only_engines_of_the_plan_are_looked_at(page: StatusPage) -> None:
    page.main.count[Main.ENGINES] = 2
    assert [e.place for e in snapshot.engines(page)] == [0, 1]


def test_status_tells_how_many_poisoned_requests_are_remembered_and_the_newest_without_their_bytes(page: StatusPage) -> None:
    page.main.count[Main.SERVING] = 2
    for n, revision in ((1, 1), (2, 2), (3, 2)):
        poison_page.write(page, 0, Poison(100.0 + n, revision, Fingerprint(n, bytes([n]) * 16)))
    told = snapshot.status(page, Snapshot(110.0, 1110.0), Remembered())["poisoned"]
    assert told["remembered"] == 2
    assert told["newest"] == [{"id": "03030303", "at": 1103.0}, {"id": "02020202", "at": 1102.0}]


@pytest.mark.parametrize("stuck", [0, 1])
def test_an_engine_is_stuck_when_the_supervisor_has_found_it_so_and_not_for_being_late(page: StatusPage, stuck: int) -> None:
    seen = engine(page, PID=ME, STATE=int(ReplicaState.READY), RUN_STARTED_S=9.0, RUN_DEADLINE_S=10.0, STUCK=stuck)
    verdict = readiness([snapshot.replica_view(seen)], None, [])
    assert verdict == (Verdict(False, Reason.STUCK) if stuck else Verdict(True, Reason.READY))


def test_a_process_that_is_gone_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    assert snapshot.alive(child.pid)
    child.wait()
    assert not snapshot.alive(child.pid)
    assert not snapshot.alive(0)
    assert snapshot.alive(ME)


def test_a_ready_engine_whose_process_died_makes_the_verdict_engine_lost(page: StatusPage) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    seen = engine(page, PID=child.pid, STATE=int(ReplicaState.READY), WAS_READY=1)
    assert readiness([snapshot.replica_view(seen)], None, []) == Verdict(False, Reason.ENGINE_LOST)


def test_the_status_tells_what_is_on_the_page(page: StatusPage) -> None:
    main, front = page.main, page.front(0)
    main.count[Main.ENGINES], main.count[Main.FRONTS], main.count[restart_cell("engine", "stuck")] = 1, 1, 3
    main.value[Main.STARTED_S] = 100.0
    page.write_verdict(Verdict(False, Reason.WARMING), 104.0)
    engine(page, PID=ME, EPOCH=4, STATE=int(ReplicaState.WARMING), WARM_DONE=2, WARM_TOTAL=5)
    page.engine(0).count[Engine.BATCH_ROWS + 3] = 9
    page.engine(0).count[Engine.ERRORS + NUMBER[ModelFailed]] = 2
    page.write_text(0, {"model": {"name": "digits"}})
    front.count[Front.OK], front.count[Front.ERRORS + NUMBER[BadShape]] = 12, 1
    front.count[Front.LATENCY + time_bucket(0.001)] = 12
    told = snapshot.status(page, Snapshot(110.0, 1110.0), Remembered())
    assert (told["ready"], told["reason"], told["for_s"], told["uptime_s"]) == (False, "warming", 6.0, 10.0)
    assert told["clears_when"] and told["restarts"] == {"front": 0, "engine": 3, "sidecar": 0}
    (replica,) = told["replicas"]
    assert (replica["pid"], replica["epoch"], replica["state"], replica["warm"]) == (ME, 4, "WARMING", "2 of 5")
    assert replica["batch_rows"] == {"<8": 9} and replica["faults"] == {"model_error": 2}
    assert replica["model"] == {"name": "digits"}
    (shown,) = told["fronts"]
    assert (shown["ok"], shown["errors"], shown["latency_us"]) == (12, {"bad_shape": 1}, {"<1024": 12})


def test_the_settings_survive_their_way_through_the_command_line() -> None:
    settings = SidecarSettings(listen_fd=5, status_fd=6, admin_fd=7, token_fd=8, supervisor="/x y/s", run_dir="/x y",
                               log_text=True, host="::", grpc_port=9)  # fmt: skip
    assert parse(dump(settings)) == settings


def test_the_token_is_held_outside_of_the_arguments_and_read_by_every_sidecar() -> None:
    fd = hold_token("a secret of some length")
    assert [read_token(fd), read_token(fd)] == ["a secret of some length"] * 2
    os.close(fd)


def test_each_model_is_told_once_and_is_ready_only_while_the_container_is(page: StatusPage) -> None:
    page.main.count[Main.ENGINES] = 3
    for place, name in enumerate(("digits", "wine", "digits")):
        page.write_text(place, {"model": {"name": name, "version": "1", "sha256": "ab"}})
    engine(page, 2, PID=ME, STATE=int(ReplicaState.READY))
    page.write_verdict(Verdict(True, Reason.READY), 1.0)
    told = {m["name"]: (m["ready"], m["replicas"], m["sha256"]) for m in snapshot.models(page)}
    assert told == {"digits": (True, [0, 2], "ab"), "wine": (False, [1], "ab")}
    page.write_verdict(Verdict(False, Reason.DRAINING), 2.0)
    assert [m["ready"] for m in snapshot.models(page)] == [False, False]


def test_who_asks_for_the_points_after_the_last_one_never_gets_that_one_again(page: StatusPage) -> None:
    remembered = Remembered()
    for at_s in (100.0, 101.00000049, 102.00000051):
        remembered.measures.sample(page, at_s)
    told = snapshot.status(page, Snapshot(103.0, 1.0), remembered)["measures"]
    assert len(told["points"]) == 2
    for after_s, left in ((told["points"][0][0], 1), (told["points"][1][0], 0)):
        again = snapshot.status(page, Snapshot(103.0, 1.0), remembered, points_after_s=after_s)
        assert len(again["measures"]["points"]) == left
