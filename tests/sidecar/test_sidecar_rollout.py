"""Rollouts over the sidecar's real HTTP: named, judged, staged, ended, refused, resumed; and nobody else is slowed."""

from __future__ import annotations

import itertools
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from math import log10
from pathlib import Path
from typing import Any

import pytest

from evenkeel.serve.contract.status_page import Main, RolloutCell, StatusPage
from evenkeel.serve.errors import NotFound
from evenkeel.sidecar.rollout import checkpoint, judge, replay, scrape, window_step
from evenkeel.sidecar.rollout.counters import Key
from evenkeel.sidecar.rollout.evidence import Evidence
from evenkeel.sidecar.rollout.evidence_series import POINTS_MAX, EvidenceSeries
from evenkeel.sidecar.rollout.fetch import fetch
from evenkeel.sidecar.rollout.judge_errors import BadMetrics, CannotJudge
from evenkeel.sidecar.rollout.rule import Arm
from evenkeel.sidecar.rollout.spec import RolloutSpec, from_json
from evenkeel.sidecar.rollout_case import BODY_BYTES_MAX
from evenkeel.sidecar.rollout_service import RolloutService
from evenkeel.sidecar.settings import SidecarSettings
from evenkeel.sidecar.watch import watch_loop
from evenkeel.sidecar.watch.snapshot import Remembered
from evenkeel.sidecar.watch.transitions import TransitionLog
from tests.sidecar.rollout.fleet import Instance, StepClock, serving
from tests.support.log_read import logged
from tests.support.scrape import Scrape
from tests.support.sidecar_app import TOKEN, App, ask, serving_sidecar

BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Bench:
    """A judge whose clock a test moves, its sidecar app, and instances that follow the same clock."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.page, self.clock = StatusPage.create(), StepClock()
        self.judging = RolloutService(self.page, folder, self.clock.now_s)
        self.app: App = stack.enter_context(serving_sidecar(self.page, self.judging, folder))

    def instance(self, **traits: Any) -> Instance:
        made = Instance(self.clock, **{"error_rate": 0.002, **traits})
        made.url = self._stack.enter_context(serving(lambda path: (200, made.text())))
        return made

    def order(self, baseline: Instance, candidate: Instance, **options: Any) -> dict[str, Any]:
        return {"baseline": [baseline.url], "candidate": [candidate.url], "id": "r1", **options}

    def name(self, baseline: Instance, candidate: Instance, **options: Any) -> None:
        said = self.app.ask("/rollout", "POST", self.order(baseline, candidate, **options))
        assert said.status == 202, said.text
        self.judging.turn()

    def run(self, seconds: float, step_s: float = 10.0) -> dict[str, Any]:
        for _ in range(round(seconds / step_s)):
            self.clock.sleep(step_s)
            self.judging.turn()
        return self.decision()

    def decision(self) -> dict[str, Any]:
        said = self.app.ask("/rollout/decision")
        assert said.status == 200, said.text
        return dict(said.json)

    def gauges(self) -> tuple[float, float] | None:
        told = Scrape(ask(self.app.port, "/metrics").text)
        names = ("evenkeel_rollout_rollback_wanted", "evenkeel_rollout_evidence_insufficient")
        return (told[names[0]], told[names[1]]) if set(names) <= told.names else None

    def hooks(self) -> dict[str, int]:
        """As Flagger calls them: without any credentials."""
        names = ("confirm-promotion", "confirm-traffic-increase", "rollback")
        return {n: ask(self.app.port, f"/rollout/flagger/{n}", "POST", {"name": "x"}).status for n in names}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(tmp_path, stack)


def codes(record: dict[str, Any]) -> list[str]:
    return [reason["code"] for reason in record["reasons"]]


# ---- the decision, as everybody sees it ----------------------------------------------------------------------------------


def test_before_a_rollout_is_named_there_is_no_decision_no_gauge_and_no_open_gate(bench: Bench) -> None:
    said = ask(bench.app.port, "/rollout/decision")
    assert (said.status, said.code) == (404, "no_rollout") and "POST /rollout" in said.message
    assert bench.hooks() == {"confirm-promotion": 404, "confirm-traffic-increase": 404, "rollback": 404}
    assert bench.gauges() is None
    for method, path in (("DELETE", "/rollout"), ("GET", "/rollout/log")):
        assert bench.app.ask(path, method).code == "no_rollout"
    assert bench.app.ask("/rollout/stage", "POST", {"split": {"baseline": 1, "candidate": 1}}).code == "no_rollout"


def test_an_equal_candidate_is_held_and_then_promoted(bench: Bench) -> None:
    bench.name(bench.instance(), bench.instance())
    first = bench.run(60)
    assert (first["decision"], first["judge"]["phase"], bench.gauges()) == ("hold", "judging", (0, 1))
    assert bench.hooks() == {"confirm-promotion": 403, "confirm-traffic-increase": 403, "rollback": 403}
    last = bench.run(540)
    assert (last["decision"], last["rollout"], bench.gauges()) == ("promote", "r1", (0, 0))
    assert bench.hooks() == {"confirm-promotion": 200, "confirm-traffic-increase": 200, "rollback": 403}


def test_a_worse_candidate_is_rolled_back_and_that_is_final(bench: Bench) -> None:
    new = bench.instance(error_rate=0.02)
    bench.name(bench.instance(), new)
    record = bench.run(600)
    assert (record["decision"], record["final"], record["judge"]["phase"]) == ("rollback", True, "ended")
    assert bench.gauges() == (1, 0) and bench.hooks()["rollback"] == 200
    new.broken = "gone"
    assert bench.run(100) == record, "nobody is asked any more"
    assert bench.app.ask("/rollout/stage", "POST", {"split": {"baseline": 1, "candidate": 1}}).code == "rollout_ended"


def test_the_same_windows_give_the_same_verdict_as_the_command(bench: Bench, tmp_path: Path) -> None:
    old, new = bench.instance(), bench.instance(error_rate=0.004)
    start_s = bench.clock.at_s
    bench.name(old, new, split={"baseline": 1, "candidate": 1}, edge=[0.024], max_minutes=10)
    ours = bench.run(600)
    bench.clock.at_s = start_s
    argv = ["--baseline", old.url, "--candidate", new.url, "--split", "baseline=1,candidate=1", "--edge", "0.024", "--id", "r1",
            "--max-minutes", "10", "--json", "--log", str(tmp_path / "l"), "--plot", str(tmp_path / "p")]  # fmt: skip
    lines: list[str] = []
    judge.judge(argv, bench.clock, lines.append)
    told = json.loads(lines[-1])
    # The share is of requests a second, by the moments at which this machine came to ask: a busy one is a tenth of a second late.
    assert told.pop("split")["candidate"] == pytest.approx(ours.pop("split")["candidate"], abs=0.005)
    assert {**told, "judge": ours["judge"]} == ours


def test_the_log_it_gives_replays_to_the_same_record(bench: Bench) -> None:
    bench.name(bench.instance(), bench.instance(error_rate=0.02))
    record = bench.run(300)
    found = replay.read(ask(bench.app.port, "/rollout/log").text.splitlines())
    assert found.agrees and found.decision == {k: v for k, v in record.items() if k != "judge"}


def test_it_waits_until_every_instance_has_answered_and_says_who_has_not(bench: Bench) -> None:
    late = bench.instance(broken="starting")
    bench.name(bench.instance(), late)
    record = bench.run(120)
    assert (record["decision"], record["judge"]["phase"], record["windows"]) == ("hold", "waiting", 0)
    (why,) = record["judge"]["missing"].values()
    assert late.url in why and bench.gauges() == (0, 1)
    late.broken = None
    record = bench.run(620)
    assert record["decision"] == "promote" and "gap" not in record["flags"], "the wait was no gap"


def test_instances_that_never_answer_end_in_a_hold_when_time_is_up(bench: Bench) -> None:
    bench.name(bench.instance(), bench.instance(broken="<html>"), max_minutes=2)
    record = bench.run(180)
    assert (record["decision"], record["final"]) == ("hold", True)
    assert {"time_is_up", "data_gap"} <= set(codes(record))


def test_a_candidate_that_never_answers_goes_back_once_it_had_time_to_start(bench: Bench) -> None:
    bench.name(bench.instance(), bench.instance(broken="<html>"), ready_minutes=2)
    record = bench.run(180)
    assert (record["decision"], record["final"], codes(record)) == ("rollback", True, ["never_ready"])


def test_the_next_stage_counts_the_floors_anew_from_the_moment_it_is_asked_for(bench: Bench) -> None:
    new = bench.instance(rps=100.0)
    bench.name(bench.instance(rps=300.0), new, split={"baseline": 3, "candidate": 1})
    record = bench.run(600)
    assert record["decision"] == "promote", record["reasons"]
    bench.clock.sleep(4)  # in the middle of a window, which still belongs to the stage before
    said = bench.app.ask("/rollout/stage", "POST", {"split": {"baseline": 1, "candidate": 1}})
    assert (said.status, said.json) == (202, {"rollout": "r1", "stage": 1})
    assert bench.judging.turn(), "it looks at once"
    assert bench.decision()["stage"] == 0
    record = bench.run(10, step_s=6)
    assert (record["stage"], record["decision"]) == (1, "hold") and {"too_soon", "too_few_requests"} & set(codes(record))
    lines = [json.loads(line) for line in ask(bench.app.port, "/rollout/log").text.splitlines()]
    windows = [line["window"] for line in lines if "window" in line]
    assert [w["stage"] for w in windows[-2:]] == [0, 1] and windows[-2]["end_s"] == 604.0
    assert (windows[-2]["split"], windows[-1]["split"]) == ({"baseline": 3, "candidate": 1}, {"baseline": 1, "candidate": 1})


def test_naming_again_replaces_and_deleting_ends(bench: Bench) -> None:
    old, new = bench.instance(), bench.instance(error_rate=0.02)
    bench.name(old, new)
    assert bench.run(600)["decision"] == "rollback"
    bench.name(old, bench.instance(), id="r2")
    record = bench.run(20)
    assert (record["rollout"], record["decision"], record["windows"]) == ("r2", "hold", 2)
    assert bench.app.ask("/rollout", "DELETE").json == {"ended": "r2"}
    assert bench.app.ask("/rollout/decision").code == "no_rollout" and bench.gauges() is None
    assert [p.name for p in bench.folder.iterdir()] == ["admin.sock"], "no file is left"
    assert not bench.judging.turn()


def test_a_rollout_that_was_replaced_while_its_instances_hung_changes_nothing(bench: Bench) -> None:
    asked, go_on = threading.Event(), threading.Event()
    slow = Instance(bench.clock)

    def answer(path: str) -> tuple[int, str]:
        asked.set()
        go_on.wait(30)
        return 200, slow.text()

    with serving(answer) as url:
        said = bench.app.ask("/rollout", "POST", {"baseline": [url], "candidate": [bench.instance().url], "id": "hangs"})
        assert said.status == 202
        thread = threading.Thread(target=bench.judging.turn)
        thread.start()
        assert asked.wait(30)
        said = bench.app.ask("/rollout", "POST", bench.order(bench.instance(), bench.instance(), id="next"))
        assert said.status == 202, "nobody waits for the one that hangs"
        go_on.set()
        thread.join()
    record, kept = bench.decision(), checkpoint.load(bench.folder)
    assert (record["rollout"], record["judge"]) == ("next", {"phase": "waiting", "missing": {}})
    assert kept is not None and (kept.order.id, kept.start_s) == ("next", None), "what is saved is the new one"


# ---- who may, and what is refused ----------------------------------------------------------------------------------------

CHANGES = [("POST", "/rollout"), ("DELETE", "/rollout"), ("POST", "/rollout/stage")]


@pytest.mark.parametrize(("method", "path"), CHANGES)
@pytest.mark.parametrize(
    ("headers", "status"), [({}, 401), ({"Authorization": f"Basic {TOKEN}"}, 401), ({"Authorization": "Bearer wrong"}, 403)]
)
def test_without_authority_nothing_changes(bench: Bench, method: str, path: str, headers: dict[str, str], status: int) -> None:
    bench.name(bench.instance(), bench.instance())
    before, files = bench.run(20), {p.name: p.stat().st_mtime_ns for p in bench.folder.iterdir()}
    other = bench.order(bench.instance(), bench.instance(), id="other")
    body = {"split": {"baseline": 1, "candidate": 9}} if path.endswith("stage") else other
    said = ask(bench.app.port, path, method, body, **headers)
    assert said.status == status and TOKEN not in said.text
    assert bench.decision() == before and not bench.judging.turn()
    assert {p.name: p.stat().st_mtime_ns for p in bench.folder.iterdir()} == files


def test_the_token_over_http_is_as_good_as_the_socket(bench: Bench) -> None:
    order = bench.order(bench.instance(), bench.instance())
    assert ask(bench.app.port, "/rollout", "POST", order, **BEARER).status == 202
    assert ask(bench.app.port, "/rollout/stage", "POST", {"split": "unchecked"}, **BEARER).status == 202
    assert ask(bench.app.port, "/rollout", "DELETE", **BEARER).status == 200


B, C = ["http://b:1"], ["http://c:1"]
BAD: list[tuple[object, int, str]] = [
    (b"", 400, "not JSON"),
    (b"{", 400, "not JSON"),
    (b"\xff\xfe", 400, "not JSON"),
    (b'{"baseline": [], "baseline": []}', 400, "a key is given twice"),
    (b'{"budget": NaN}', 400, "NaN is no JSON number"),
    (b'{"budget": ' + b"9" * 5000 + b"}", 400, "not JSON"),
    (b"[" * 60_000, 400, "not JSON"),
    (b" " * (65 << 10), 413, "at most 65536 bytes"),
    ([], 400, "expected a JSON object"),
    ({}, 400, "name at least one instance as `candidate`"),
    ({"candidate": C}, 400, "`baseline` or `production`"),
    ({"baseline": B}, 400, "`candidate`"),
    ({"baseline": B, "candidate": C, "prometheus": "http://p"}, 400, "unknown key 'prometheus'"),
    ({"baseline": "http://b:1", "candidate": C}, 400, "baseline: expected a list"),
    ({"baseline": [1], "candidate": C}, 400, "baseline: expected a list"),
    ({"baseline": [""], "candidate": C}, 400, "baseline: an address has 1 to 512"),
    ({"baseline": ["http://" + "b" * 600], "candidate": C}, 400, "this one has 607"),
    ({"baseline": ["http://b:1/\n"], "candidate": C}, 400, "only printable ASCII"),
    ({"baseline": ["file:///etc/passwd"], "candidate": C}, 400, "not an HTTP address"),
    ({"baseline": ["ftp://b"], "candidate": C}, 400, "not an HTTP address"),
    ({"baseline": ["http://"], "candidate": C}, 400, "not an HTTP address"),
    ({"baseline": ["http://b:99999"], "candidate": C}, 400, "not an HTTP address"),
    ({"baseline": ["http://[::1"], "candidate": C}, 400, "not an HTTP address"),
    ({"baseline": ["http://user:secret@b:1"], "candidate": C}, 400, "user name or password"),
    ({"baseline": B, "candidate": B}, 400, "the same instance is named in two arms"),
    ({"baseline": [*B, *B], "candidate": C}, 400, "the same instance is named twice"),
    ({"baseline": [f"b{i}:1" for i in range(48)], "candidate": C}, 400, "49 instances are named; at most 48"),
    ({"baseline": B, "candidate": C, "window_s": 0.5, "max_minutes": 1440}, 400, "too many looks"),
    ({"baseline": B, "candidate": C, "window_s": 0}, 400, "window_s: expected a number from 0.5 to 600"),
    ({"baseline": B, "candidate": C, "window_s": "10"}, 400, "window_s: expected a number"),
    ({"baseline": B, "candidate": C, "window_s": True}, 400, "window_s: expected a number"),
    (b'{"baseline": ["b"], "candidate": ["c"], "window_s": 1e999}', 400, "window_s: expected a number"),
    ({"baseline": B, "candidate": C, "min_requests": 1.5}, 400, "min_requests: expected a whole number"),
    ({"baseline": B, "candidate": C, "min_requests": -1}, 400, "min_requests: expected a whole number"),
    ({"baseline": B, "candidate": C, "bad_ratio": 1.1}, 400, "bad_ratio must be above margin"),
    ({"baseline": B, "candidate": C, "budget": 1}, 400, "a budget is a rate below 1"),
    ({"baseline": B, "candidate": C, "edge": [0.1, 0.2, 0.3, 0.4]}, 400, "edge: expected a list of at most 3"),
    ({"baseline": B, "candidate": C, "edge": 0.1}, 400, "edge: expected a list"),
    ({"baseline": B, "candidate": C, "edge": [0]}, 400, "edge: expected a number"),
    ({"baseline": B, "candidate": C, "no_latency": 1}, 400, "no_latency: expected true or false"),
    ({"baseline": B, "candidate": C, "at_end": "promote"}, 400, "at_end: expected hold or rollback"),
    ({"baseline": B, "candidate": C, "id": "x\n"}, 400, "id: expected at most 128 printable"),
    ({"baseline": B, "candidate": C, "id": "x" * 129}, 400, "id: expected at most 128 printable"),
    ({"baseline": B, "candidate": C, "split": "half"}, 400, "split: expected weights"),
    ({"baseline": B, "candidate": C, "split": {}}, 400, "split: expected weights"),
    ({"baseline": B, "candidate": C, "split": {"blue": 1, "candidate": 1}}, 400, "split: 'blue' is no arm"),
    ({"baseline": B, "candidate": C, "split": {"baseline": 0, "candidate": 1}}, 400, "split.baseline: expected a number"),
    ({"baseline": B, "candidate": C, "split": {"candidate": 1}}, 400, "split: name the candidate and at least one other"),
    ({"baseline": B, "candidate": C, "split": {"production": 1, "candidate": 1}}, 400, "split: production has no instances"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "words"), BAD, ids=[f"{i}-{words[:40]}" for i, (_, _, words) in enumerate(BAD)])
def test_what_is_wrong_with_a_rollout_is_said_and_the_one_in_progress_goes_on(
    shared: Bench, body: object, status: int, words: str
) -> None:
    before = shared.decision()
    said = shared.app.ask("/rollout", "POST", body)
    assert (said.status, words in said.message) == (status, True), said.text
    assert shared.decision() == before


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, 'expected {"split":'),
        ({"split": {"baseline": 1}}, "split: name the candidate"),
        ({"split": {"production": 1, "candidate": 1}}, "split: production has no instances"),
        ({"split": {"baseline": 1, "candidate": 1}, "x": 1}, 'expected {"split":'),
    ],
)
def test_what_is_wrong_with_a_stage_is_said(shared: Bench, body: object, words: str) -> None:
    said = shared.app.ask("/rollout/stage", "POST", body)
    assert said.status == 400 and words in said.message, said.text
    assert not shared.judging.turn()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """With a rollout in progress, for tests that must not change it."""
    with ExitStack() as stack:
        bench = Bench(tmp_path_factory.mktemp("r"), stack)
        bench.name(bench.instance(), bench.instance())
        bench.run(30)
        yield bench


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/rollout", 405), ("POST", "/rollout/decision", 405), ("GET", "/rollout/flagger/rollback", 405),
     ("POST", "/rollout/flagger/other", 404), ("GET", "/rollout/other", 404)],
)  # fmt: skip
def test_other_paths_and_methods_are_refused_as_json(shared: Bench, method: str, path: str, status: int) -> None:
    said = ask(shared.app.port, path, method)
    assert said.status == status and said.message


def test_an_order_and_the_json_that_asks_for_it_are_the_same() -> None:
    body = {"candidate": C, "baseline": B, "production": ["http://p:1"], "id": "x", "model": "m", "window_s": 5.0, "block_s": 5.0,
            "min_minutes": 1.0, "max_minutes": 2.0, "ready_minutes": 3.0,
            "min_requests": 10, "budget": 0.0, "latency_budget": 0.1, "margin": 1.3,
            "bad_ratio": 3.0, "edge": [0.1], "objective_s": 0.2, "no_latency": False, "at_end": "rollback",
            "slo": "errors=1%,p99=300ms", "strata": "route", "metric": ["a=b_total/c_total"],
            "initial_delay_s": 30.0, "warm_up_s": 60.0, "split": {"baseline": 1.0, "candidate": 1.0}}  # fmt: skip
    order = from_json(body, "")
    assert order.to_json() == body and from_json(order.to_json(), "") == order
    unchecked = from_json({**body, "split": "unchecked"}, "")
    assert unchecked.split is None and from_json(unchecked.to_json(), "") == unchecked and not unchecked.rule().mix_checked
    assert from_json({"candidate": C, "baseline": B}, "now") == RolloutSpec(candidate=tuple(C), baseline=tuple(B), id="now")


# ---- /status, for people -------------------------------------------------------------------------------------------------


def shown(bench: Bench) -> Any:
    return ask(bench.app.port, "/status?points_after_s=1e18").json["rollout"]


def test_status_shows_no_rollout_until_one_is_named_and_none_after_its_end(bench: Bench) -> None:
    assert shown(bench) is None
    bench.name(bench.instance(), bench.instance())
    assert shown(bench)["rollout"] == "r1"
    bench.app.ask("/rollout", "DELETE")
    assert shown(bench) is None


def test_status_shows_the_verdict_its_reasons_the_arms_and_the_evidence_as_it_grows(bench: Bench) -> None:
    old, new = bench.instance(), bench.instance(error_rate=0.006)
    bench.name(old, new)
    bench.run(60)
    told, record = shown(bench), bench.decision()
    for name in ("decision", "final", "reasons", "windows", "elapsed_s", "flags"):
        assert told[name] == record[name], name
    assert told["phase"] == "judging" and told["max_s"] == 1800
    arm = told["arms"]["candidate"]
    assert arm["instances"] == [new.url.removeprefix("http://")] and arm["missing"] == {} and arm["requests"] == 6000
    errors = told["metrics"]["errors"]
    assert errors["count_e"] == record["metrics"]["errors"]["count_e"] and errors["rollback_at"] == pytest.approx(
        1 / 0.0057, rel=1e-3
    )
    rows = told["evidence"]["metrics"]["errors"]
    assert told["evidence"]["fields"] == ["at_s", "count", "sign", "good"]
    assert [row[0] for row in rows] == [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
    assert rows[-1][1] == pytest.approx(log10(errors["count_e"]), abs=0.001) and rows[-1][1] > rows[0][1]


def test_status_says_since_when_the_verdict_is_what_it_is(bench: Bench) -> None:
    bench.name(bench.instance(), bench.instance(error_rate=0.02))
    record = bench.run(60)
    assert record["decision"] == "hold" and shown(bench)["for_s"] == 60, "hold from the moment it was named"
    while bench.decision()["decision"] == "hold":
        bench.run(10)
    assert shown(bench)["for_s"] == 0
    first = shown(bench)["since"] - shown(bench)["named_at"]
    assert first == pytest.approx(bench.decision()["elapsed_s"], abs=0.01)
    bench.clock.sleep(100)
    assert shown(bench)["for_s"] == 100
    successor = RolloutService(bench.page, bench.folder, bench.clock.now_s).status(lambda s: s)
    assert successor is not None and successor["for_s"] == 100, "a successor knows it too"


def test_status_names_the_instance_that_is_missing_and_why(bench: Bench) -> None:
    new = bench.instance()
    bench.name(bench.instance(), new)
    new.broken = "no metrics at all"
    bench.run(10)
    (why,) = shown(bench)["arms"]["candidate"]["missing"].values()
    assert why in bench.decision()["judge"]["missing"].values()


def test_a_successor_has_the_same_trail_and_one_that_lost_it_says_so(bench: Bench) -> None:
    bench.name(bench.instance(), bench.instance(error_rate=0.004))
    bench.run(200)
    ours = bench.judging.status(lambda s: s)
    theirs = RolloutService(bench.page, bench.folder, bench.clock.now_s).status(lambda s: s)
    assert ours == theirs and ours is not None and len(ours["evidence"]["metrics"]["errors"]) == 20
    (bench.folder / checkpoint.STATE).write_text("garbage")
    lost = RolloutService(bench.page, bench.folder, bench.clock.now_s).status(lambda s: s)
    assert lost is not None and (lost["phase"], lost["decision"], lost["final"]) == ("lost", "hold", True)
    assert lost["reasons"][0]["code"] == "judge_lost" and lost["arms"] == {}


def test_a_trail_keeps_its_bound_and_its_newest_point_however_many_windows_come() -> None:
    trail, rule = EvidenceSeries(), RolloutSpec(candidate=("c",), baseline=("b",), id="x").rule()
    for i in range(1, 1001):
        trail.add(rule, {"errors": Evidence("errors")}, i * 10.0)
        rows = trail.to_json()["metrics"]["errors"]
        assert len(rows) <= POINTS_MAX + 1 and rows[0][0] == 10.0 and rows[-1][0] == i * 10.0
        gaps = {round(b[0] - a[0]) for a, b in itertools.pairwise(rows[:-1])}
        assert len(gaps) <= 1, "evenly thinned"
    assert len(rows) > POINTS_MAX / 2


# ---- a successor ---------------------------------------------------------------------------------------------------------


def test_a_successor_goes_on_and_comes_to_the_very_same_record(bench: Bench) -> None:
    """Killed between two looks; counters only grow, so nothing was lost."""
    old, new = bench.instance(), bench.instance(error_rate=0.004)
    bench.name(old, new)
    bench.run(200)
    alone = checkpoint.load(bench.folder)
    assert alone is not None
    successor = RolloutService(bench.page, bench.folder, bench.clock.now_s)
    for judging in (bench.judging, successor):
        assert judging.shown()["windows"] == 20
    bench.clock.sleep(10)
    assert successor.turn() and bench.judging.turn()
    assert successor.shown() == bench.judging.shown()


def test_a_successor_that_comes_late_has_one_longer_window_and_no_gap(bench: Bench) -> None:
    bench.name(bench.instance(), bench.instance())
    bench.run(100)
    bench.clock.sleep(35)
    successor = RolloutService(bench.page, bench.folder, bench.clock.now_s)
    assert successor.turn()
    record = successor.shown()
    assert (record["windows"], record["elapsed_s"]) == (11, 135.0)
    assert not {"gap", "joined", "counter_reset"} & set(record["flags"])
    assert record["metrics"]["errors"]["candidate"]["requests"] == 13_500


def test_a_successor_keeps_what_was_final_and_the_stage(bench: Bench) -> None:
    bench.name(bench.instance(), bench.instance(error_rate=0.02))
    bench.app.ask("/rollout/stage", "POST", {"split": {"baseline": 1, "candidate": 2}})
    record = bench.run(600)
    assert record["decision"] == "rollback" and record["stage"] == 1
    successor = RolloutService(bench.page, bench.folder, bench.clock.now_s)
    assert not successor.turn()
    shown = successor.shown()
    assert {**shown, "judge": None} == {**record, "judge": None} and shown["judge"]["phase"] == "ended"


def test_a_successor_waits_on_for_instances_that_had_not_answered(bench: Bench) -> None:
    late = bench.instance(broken="starting")
    bench.name(bench.instance(), late)
    bench.run(50)
    successor = RolloutService(bench.page, bench.folder, bench.clock.now_s)
    assert successor.shown()["judge"]["phase"] == "waiting"
    late.broken = None
    bench.clock.sleep(10)
    assert successor.turn() and successor.shown()["judge"]["phase"] == "judging"


def test_a_window_that_was_written_just_before_the_end_is_not_counted_twice(bench: Bench) -> None:
    """Killed after the log grew and before the state followed; and in the middle of a line."""
    bench.name(bench.instance(), bench.instance())
    bench.run(100)
    state = (bench.folder / checkpoint.STATE).read_bytes()
    bench.run(10)
    (bench.folder / checkpoint.STATE).write_bytes(state)
    with (bench.folder / checkpoint.LOG).open("a") as log:
        log.write('{"window":{"start_s":1')
    successor = RolloutService(bench.page, bench.folder, bench.clock.now_s)
    assert successor.shown()["windows"] == 10
    bench.clock.sleep(3)
    assert successor.turn()
    assert successor.shown()["metrics"]["errors"]["candidate"]["requests"] == 11_300, "113 s at 100 a second, each once"
    again = checkpoint.load(bench.folder)
    assert again is not None and [w.end_s for w in again.rollout.windows[-2:]] == [100.0, 113.0]


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"{", b"[]\n", b'{"format": "evenkeel rollout in progress 9"}\n', b"\xff" * 9])
def test_a_successor_that_cannot_read_what_was_saved_holds_and_says_so(bench: Bench, damage: bytes) -> None:
    bench.name(bench.instance(), bench.instance())
    bench.run(600)
    assert bench.page.main.count[Main.ROLLOUT] == RolloutCell.PROMOTE
    (bench.folder / checkpoint.STATE).write_bytes(damage)
    assert_lost(RolloutService(bench.page, bench.folder, bench.clock.now_s), bench)


def test_a_successor_without_the_windows_or_without_any_file_holds_and_says_so(bench: Bench) -> None:
    bench.name(bench.instance(), bench.instance())
    bench.run(600)
    state, log = ((bench.folder / name).read_text() for name in (checkpoint.STATE, checkpoint.LOG))
    for changed in (log.replace('"margin":1.2,', '"margin":9.2,'), log[: len(log) // 2], None):
        (bench.folder / checkpoint.STATE).write_text(state)
        if changed is not None:
            (bench.folder / checkpoint.LOG).write_text(changed)
        assert_lost(RolloutService(bench.page, bench.folder, bench.clock.now_s), bench)
    assert_lost(RolloutService(bench.page, bench.folder, bench.clock.now_s), bench)


def assert_lost(successor: RolloutService, bench: Bench) -> None:
    record = successor.shown()
    assert (record["decision"], record["final"], codes(record)) == ("hold", True, ["judge_lost"])
    assert bench.gauges() == (0, 1) and not successor.turn()
    successor.name(from_json(bench.order(bench.instance(), bench.instance()), ""))
    assert successor.turn() and successor.shown()["judge"]["phase"] == "judging", "named again, it is judged again"
    successor.end()
    bench.page.main.count[Main.ROLLOUT] = RolloutCell.PROMOTE


def test_a_folder_that_cannot_be_written_is_said_and_the_judge_goes_on(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    bench.name(bench.instance(), bench.instance())
    bench.run(100)
    kept = checkpoint.load(bench.folder)
    (bench.folder / f"{checkpoint.STATE}.new").mkdir()  # in the way of the next state, whoever runs this test
    assert bench.run(600)["decision"] == "promote"
    again = checkpoint.load(bench.folder)
    assert kept is not None and again is not None and again.rollout.memory() == kept.rollout.memory(), "what was saved holds"


# ---- an error of ours ------------------------------------------------------------------------------------------------------


def breaking(monkeypatch: pytest.MonkeyPatch, words: str = "x") -> Callable[[], None]:
    """The rule raises from now on, until what this gives is called."""
    rule = window_step.step

    def broken(*args: Any) -> Any:
        raise RuntimeError(words)

    monkeypatch.setattr(window_step, "step", broken)
    return lambda: monkeypatch.setattr(window_step, "step", rule)


def test_a_judge_that_failed_says_so_and_holds_and_goes_on_with_the_next_look(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bench.name(bench.instance(), bench.instance())
    assert bench.run(600)["decision"] == "promote"
    mend = breaking(monkeypatch, "ASIAVERYSECRET of an instance")
    record = bench.run(20)
    assert (record["decision"], record["final"], record["judge"]["phase"]) == ("hold", False, "failed")
    assert codes(record) == ["judge_failed"] and "RuntimeError" in record["reasons"][0]["words"]
    assert record["windows"] == 60 and bench.gauges() == (0, 1) and bench.hooks()["confirm-promotion"] == 403
    assert shown(bench)["for_s"] == 10
    said = logged(capfd)
    assert said.count("rollout_failed") == 2 and "ASIAVERYSECRET" not in said + json.dumps(record)
    mend()
    record = bench.run(10)
    assert (record["decision"], record["judge"]["phase"], record["windows"]) == ("promote", "judging", 61)
    found = replay.read(ask(bench.app.port, "/rollout/log").text.splitlines())
    assert found.agrees and found.windows[-1].seconds == 30, "the window covers the looks that failed, and is no gap"


def test_a_judge_that_goes_on_failing_ends_in_a_hold_when_time_is_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.name(bench.instance(), bench.instance(), max_minutes=2, at_end="rollback")
    breaking(monkeypatch)
    record = bench.run(100)
    assert (record["final"], record["judge"]["phase"]) == (False, "failed")
    record = bench.run(30)
    assert (record["decision"], record["final"], record["judge"]["phase"]) == ("hold", True, "ended")
    assert codes(record) == ["judge_failed"] and not bench.judging.turn()
    assert bench.app.ask("/rollout/stage", "POST", {"split": "unchecked"}).code == "rollout_ended"


def test_a_stage_that_is_asked_for_while_the_judge_fails_begins_when_it_is_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.name(bench.instance(), bench.instance())
    bench.run(30)
    mend = breaking(monkeypatch)
    assert bench.app.ask("/rollout/stage", "POST", {"split": "unchecked"}).status == 202
    assert bench.judging.turn() and not bench.judging.turn(), "it does not look without end"
    mend()
    assert bench.run(20)["stage"] == 1


def test_a_reference_with_an_edge_that_is_no_number_is_a_gap_of_that_instance(bench: Bench) -> None:
    old = bench.instance()
    bench.name(old, bench.instance())
    bench.run(30)
    old.broken = old.text() + 'evenkeel_request_seconds_bucket{model="digits",version="1",le="nan"} 5\n'
    record = bench.run(30)
    assert (record["decision"], record["judge"]["phase"]) == ("hold", "judging") and codes(record)[0] == "data_gap"
    (why,) = record["judge"]["missing"].values()
    assert "without a readable edge" in why


# ---- instances that hang or answer garbage ---------------------------------------------------------------------------------


def random_text(luck: random.Random, size: int) -> bytes:
    alphabet = 'evenkeel_requests_total{model="a",code="200",le="+Inf"} 12\n#TYPE HELP \\"\'=,{}e+.NaN_é\x00\t '
    return "".join(luck.choices(alphabet, k=size)).encode()


def garbage() -> Iterator[bytes]:
    luck = random.Random(20)
    name = b"evenkeel_requests_total"
    yield from (b"", b"<html>" * 9000, b"\x00" * 50_000, b"\xff" * 50_000, b"{" * 3000, b'"' * 4000, b"\\" * 4000, b"#" * 4000)
    yield from (name + b"{" * 4000 + b" 1\n", name + b"{a=" * 1000, name + b'{a="' + b"\\" * 4000 + b'"} 1\n')
    yield b"\n".join(name + b'{code="%d"} 1' % i for i in range(5000))
    yield b"\n".join(b'evenkeel_request_seconds_bucket{le="%d"} %d' % (i, i) for i in range(4000))
    yield from (name + b'{code="500"} ' + number + b"\n" for number in (b"1e308", b"9" * 4000, b"1e15", b"-1", b"inf", b"0x1f"))
    yield from (random_text(luck, 20_000) for _ in range(30))


def test_no_text_of_an_instance_is_more_than_unreadable() -> None:
    for text in garbage():
        with suppress(BadMetrics):
            scrape.build(scrape.from_text(text.decode("utf-8", "replace")), Key(Arm.CANDIDATE, "x"), 0.0)


def test_counters_that_no_process_could_have_are_not_believed(bench: Bench) -> None:
    liar = bench.instance()
    bench.name(bench.instance(), liar)
    bench.run(100)
    honest, liar.broken = liar.text(), None
    liar.broken = honest.replace('code="500"} ', 'code="500"} 9999999999')
    record = bench.run(50)
    assert record["decision"] == "hold" and codes(record)[0] == "data_gap", record["reasons"]


@contextmanager
def raw_server(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """Instances whose every connection goes to `behave`."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=one, args=(connection,), daemon=True).start()

        def one(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                behave(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def drip_a_head(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        connection.sendall(b"x")
        time.sleep(0.02)


def hang(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def pour(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b'evenkeel_requests_total{code="200"} 1\n' * 1000)


def test_a_head_that_drips_in_is_given_up_by_the_deadline_of_the_whole() -> None:
    with raw_server(drip_a_head) as url, pytest.raises(CannotJudge, match=r"no whole answer in 0\.3 s"):
        fetch(f"{url}/metrics", 0.3)


def test_an_answer_without_an_end_is_given_up_at_its_bound() -> None:
    with raw_server(pour) as url, pytest.raises(CannotJudge, match=f"longer than {BODY_BYTES_MAX} bytes"):
        fetch(f"{url}/metrics", 30, BODY_BYTES_MAX)


def test_instances_that_hang_or_answer_garbage_do_not_slow_the_watch_loop(tmp_path: Path) -> None:
    """The real loop and the real judge in real time. The bar is wide: any shared machine stalls now and then."""
    page, remembered = StatusPage.create(), Remembered(memory=TransitionLog())
    settings = SidecarSettings(listen_fd=-1, status_fd=-1, admin_fd=-1, token_fd=-1, supervisor="", run_dir="", log_text=True)
    threading.Thread(target=watch_loop.watch, args=(page, remembered, settings, threading.Event()), daemon=True).start()
    texts = list(garbage())
    turn = iter(range(1 << 30))

    def babble(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + texts[next(turn) % len(texts)])

    judging = RolloutService(page, tmp_path)
    with ExitStack() as stack:
        urls = [stack.enter_context(raw_server(behave)) for behave in (hang, drip_a_head, pour, *[babble] * 20)]
        order = {"baseline": urls[:10], "candidate": urls[10:], "window_s": 0.5, "max_minutes": 1}
        judging.name(from_json(order, "garbage"))
        judging.start()
        gaps = []
        until_s = time.monotonic() + 5
        while time.monotonic() < until_s:
            gaps.append(time.monotonic() - page.main.value[Main.VERDICT_BEAT_S])
            time.sleep(0.01)
        assert judging.shown()["judge"]["missing"], "it did look"
        judging.end()
    beats = sorted(gaps)
    assert beats[len(beats) // 2] < 2.0, "a verdict every 0.05 s, and many times later on a machine that is starved"
    with pytest.raises(NotFound):
        judging.shown()
