"""What is said and done when memory is short, and what may be held of requests: with files of a made-up cgroup."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from evenkeel.container.environment import read
from evenkeel.container.plan import processes, thread_limit
from evenkeel.container.plan.processes import MIB
from evenkeel.container.supervise import life_records
from evenkeel.container.supervise.child import Child
from evenkeel.container.supervise.command_link import CommandLink
from evenkeel.container.supervise.engine_order import ask_to_load
from evenkeel.container.supervise.listeners import listen
from evenkeel.container.supervise.restart import History
from evenkeel.container.supervise.run_dir import RunDir
from evenkeel.container.watch.memory_kills import EXPLAINS_S, MemoryUse, OomKills
from evenkeel.serve.contract.commands import LINE_BYTES_MAX
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.model_order import ModelOrder
from evenkeel.serve.contract.status_page import Engine, Front, Main, StatusPage
from evenkeel.serve.errors import BadSetting


def kernel_killed(root: Path, times: int) -> None:
    (root / "memory.events").write_text(f"oom 9\noom_kill {times}\n")


def test_each_kill_by_the_kernel_explains_one_end_and_not_for_ever(tmp_path: Path) -> None:
    kernel_killed(tmp_path, 3)
    page = StatusPage.create()
    kills = OomKills(page, tmp_path)
    assert not kills.explain_one(1.0), "those before us are past"
    kernel_killed(tmp_path, 5)
    assert kills.explain_one(2.0) and kills.explain_one(2.0) and not kills.explain_one(2.0)
    kernel_killed(tmp_path, 6)
    kills.look(3.0)
    assert page.main.count[Main.OOM_KILLS] == 5, "gunicorn may find the victim"
    assert not kills.explain_one(3.0 + EXPLAINS_S) and page.main.count[Main.OOM_KILLS] == 6


def test_the_limit_is_named_with_what_the_processes_take(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("120000000\n")
    use = MemoryUse(tmp_path)
    use.look({os.getpid(): "engine 0"}, 1.0)
    assert "the memory limit is 120 MB, and this model's processes take about" in use.words(["out_of_memory", "exit"])
    assert use.words(["exit"]) == "" and MemoryUse(tmp_path / "none").words(["out_of_memory"]) == ""


@pytest.mark.parametrize(("left_mib", "fronts", "mib"), [(512, 1, 99), (16_000, 1, 1024), (3_300, 4, 196), (60, 1, 16)])
def test_what_fronts_may_hold_is_a_quarter_of_what_memory_leaves(left_mib: int, fronts: int, mib: int) -> None:
    made = processes.make(1, fronts, 1, 1)
    assert processes.queue_bytes(left_mib * MIB, made, files_bytes=0) // MIB == mib


def test_a_body_is_never_larger_than_what_may_be_held() -> None:
    limits = read({}).limits(50 * MIB)
    assert (limits.queue_bytes_max, limits.body_bytes_max) == (50 * MIB, 50 * MIB)
    assert read({"EVENKEEL_QUEUE_MB": "700"}).limits(50 * MIB).queue_bytes_max == 700 * MIB, "unless it was set"


def test_the_next_engine_is_told_how_many_rows_fit() -> None:
    ours, theirs = socket.socketpair()
    child = Child("engine", 0, lambda epoch: [], (), order=lambda: ModelOrder("/m", 0, 3), link=CommandLink(ours))
    child.history = History(rows_max=4)
    ask_to_load(child, 1.0)
    assert json.loads(theirs.recv(LINE_BYTES_MAX))["arguments"] == {"folder": "/m", "number": 0, "generation": 3, "rows_max": 4}
    child.link.close()
    theirs.close()


def test_only_answers_to_requests_that_this_engine_ran_are_progress() -> None:
    page = StatusPage.create()
    page.main.count[Main.FRONTS], page.main.count[Main.ENGINES] = 1, 2
    count, other = page.engine(0).count, page.engine(1).count
    other[Engine.STATE] = ReplicaState.READY
    began = life_records.mark(page, 1.0)
    count[Engine.STATE], count[Engine.ROWS], count[Engine.READY_ROWS] = ReplicaState.READY, 5, 5

    def answered() -> bool:
        return life_records.life(page, "engine", 0, began, 10.0).answered

    assert not answered()
    page.front(0).count[Front.OK] += 1
    assert not answered(), "another replica did that"
    count[Engine.ROWS] += 1
    assert answered()
    count[Engine.STATE] = ReplicaState.LOADING
    assert not answered(), "another replica did that, while this one had not become ready"
    other[Engine.STATE] = ReplicaState.LOADING
    assert answered(), "no other was there to do it: it answered those who waited, before it was ready for all"
    began = life_records.mark(page, 2.0)
    assert not answered(), "those were of the life before"


def test_a_socket_is_reached_when_its_name_and_folder_are_gone_and_made_anew(short_path: Path) -> None:
    run_dir = RunDir(str(short_path))
    engine = run_dir.listen("engine-0.sock")
    run_dir.listen("admin.sock")
    anew: list[str] = []
    run_dir.mend("admin.sock", 1.0, lambda: anew.append("too early"))
    run_dir.remove()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(engine.address)
    run_dir.mend("admin.sock", 1.5, lambda: anew.append("not yet"))
    run_dir.mend("admin.sock", 2.5, lambda: anew.append(run_dir.listen("admin.sock").address))
    assert len(anew) == 1 and (run_dir.path / "admin.sock").is_socket()
    assert run_dir.path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("host", "named"), [("192.0.2.1", "EVENKEEL_HOST"), ("no such host", "EVENKEEL_HOST")])
def test_a_host_that_is_none_of_ours_is_named_and_not_the_port(host: str, named: str) -> None:
    with pytest.raises(BadSetting) as refused:
        listen(host, 0, "EVENKEEL_HOST", "SAGEMAKER_BIND_TO_PORT")
    assert named in refused.value.message and "PORT" not in refused.value.message


def test_an_address_of_ipv6_may_be_written_as_in_a_url() -> None:
    assert read({"EVENKEEL_HOST": "[::]"}).settings.host == "::"


def test_a_limit_on_threads_is_met_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert thread_limit.possible(8) == 8
    monkeypatch.setattr(thread_limit, "possible", lambda wanted: 3)
    with pytest.raises(BadSetting, match="at least 9 more processes and threads are needed here, and 3 are allowed"):
        thread_limit.check(9)
