"""`evenkeel judge` from the outside: over HTTP, with the clock moved by hand."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from xml.etree import ElementTree

import pytest

from evenkeel.sidecar.rollout import adapters, judge, scrape
from evenkeel.sidecar.rollout.counters import Key
from evenkeel.sidecar.rollout.fetch import fetch
from evenkeel.sidecar.rollout.judge_errors import BadMetrics, CannotJudge
from evenkeel.sidecar.rollout.rule import Arm
from evenkeel.sidecar.rollout.sources import Prometheus, metrics_url, targets
from tests.sidecar.rollout.fleet import Instance, StepClock, prometheus, serving
from tests.support.tree import free_port

Start = Callable[..., str]


class Judged:
    """What a run of the command left behind."""

    def __init__(self, folder: Path, clock: StepClock) -> None:
        self.folder, self.clock = folder, clock
        self.lines: list[str] = []

    def run(self, *argv: str) -> int:
        return judge.judge(
            [*argv, "--log", str(self.folder / "log.jsonl"), "--plot", str(self.folder / "plot.svg")],
            self.clock,
            self.lines.append,
        )

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def judged(tmp_path: Path) -> Judged:
    return Judged(tmp_path, StepClock())


@pytest.fixture
def serve() -> Iterator[Callable[[Instance], str]]:
    with ExitStack() as stack:
        yield lambda instance: stack.enter_context(serving(lambda path: (200, instance.text())))


def pair(judged: Judged, serve: Callable[[Instance], str], **candidate: object) -> list[str]:
    """A baseline with 0.2 % errors, and a candidate that is told otherwise."""
    base = serve(Instance(judged.clock, error_rate=0.002))
    new = serve(Instance(judged.clock, **{"error_rate": 0.002, **candidate}))  # type: ignore[arg-type]
    return ["--baseline", base, "--candidate", new]


def test_an_equal_candidate_exits_0_with_its_evidence(judged: Judged, serve: Callable[[Instance], str]) -> None:
    assert judged.run(*pair(judged, serve)) == 0
    assert "promote after" in judged.text and "not_worse (errors)" in judged.text
    assert "slower_than_20ms" in judged.text and judged.text.count("not_worse (slower_than_") == 2
    assert "one_instance" in judged.text
    picture = ElementTree.fromstring((judged.folder / "plot.svg").read_text())
    words = ["".join(t.itertext()) for t in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"errors: e-values", "slower_than_20ms: e-values", "roll back at 175.4", "promote at 40"} <= set(words)


def test_a_worse_candidate_exits_1(judged: Judged, serve: Callable[[Instance], str]) -> None:
    assert judged.run(*pair(judged, serve, error_rate=0.01), "--no-latency") == 1
    assert "rollback after" in judged.text and "candidate_worse (errors)" in judged.text


def test_a_slower_candidate_exits_1(judged: Judged, serve: Callable[[Instance], str]) -> None:
    assert judged.run(*pair(judged, serve, slow_rate=0.05)) == 1
    assert "candidate_worse (slower_than_" in judged.text


def test_too_little_traffic_exits_2(judged: Judged, serve: Callable[[Instance], str]) -> None:
    assert judged.run(*pair(judged, serve, rps=0.2), "--max-minutes", "6") == 2
    assert "time_is_up" in judged.text and "too_few_requests (candidate)" in judged.text


def test_at_the_end_it_may_be_told_to_roll_back(judged: Judged, serve: Callable[[Instance], str]) -> None:
    assert judged.run(*pair(judged, serve, rps=0.2), "--max-minutes", "2", "--at-end", "rollback") == 1


def test_production_may_stand_in_for_a_baseline_when_the_split_is_known(judged: Judged, serve: Callable[[Instance], str]) -> None:
    old = serve(Instance(judged.clock, rps=900, error_rate=0.002))
    new = serve(Instance(judged.clock, error_rate=0.002))
    arms = ["--production", old, "--candidate", new, "--max-minutes", "10"]
    assert judged.run(*arms) == 2 and "split_unknown" in judged.text
    judged.lines.clear()
    assert judged.run(*arms, "--split", "production=9,candidate=1", "--budget", "0.01") == 0
    assert "no_baseline" in judged.text
    assert judged.run(*arms, "--split", "unchecked", "--budget", "0.01") == 0 and "split_unchecked" in judged.text


def test_a_crash_loop_ends_the_rollout_at_once(judged: Judged, serve: Callable[[Instance], str]) -> None:
    new = Instance(judged.clock, error_rate=0.002)

    def crash(now_s: float) -> None:
        new.restarts += 1

    judged.clock.on_sleep = crash
    arms = ["--baseline", serve(Instance(judged.clock)), "--candidate", serve(new)]
    assert judged.run(*arms) == 1
    assert "rollback after 30 s" in judged.text and "crash_loop" in judged.text


def test_an_instance_that_falls_silent_holds(judged: Judged, serve: Callable[[Instance], str]) -> None:
    new = Instance(judged.clock, error_rate=0.002)

    def silence(now_s: float) -> None:
        new.broken = "" if 5100 < now_s < 5120 else None

    judged.clock.on_sleep = silence
    assert (
        judged.run("--baseline", serve(Instance(judged.clock, error_rate=0.002)), "--candidate", serve(new), "--max-minutes", "6")
        == 2
    )
    assert "missing: http://" in judged.text and "data_gap" in judged.text and "flags: " in judged.text


def test_a_candidate_that_never_answers_is_rolled_back_once_it_had_time_to_start(
    judged: Judged, serve: Callable[[Instance], str]
) -> None:
    arms = ["--baseline", serve(Instance(judged.clock)), "--candidate", f"http://127.0.0.1:{free_port()}"]
    began_s = judged.clock.now_s()
    assert judged.run(*arms, "--ready-minutes", "3") == 1
    assert judged.clock.now_s() - began_s == pytest.approx(180, abs=11)
    assert "waiting for the candidate: http://" in judged.text and "never_ready (candidate/" in judged.text
    assert judge.judge(["--replay", str(judged.folder / "log.jsonl")], judged.clock, judged.lines.append) == 1


def test_a_candidate_that_starts_late_is_judged_from_then_on(judged: Judged, serve: Callable[[Instance], str]) -> None:
    new, comes_s = Instance(judged.clock, error_rate=0.002), judged.clock.now_s() + 120

    def answer(path: str) -> tuple[int, str]:
        return (200, new.text()) if judged.clock.now_s() >= comes_s else (503, "it starts")

    with serving(answer) as url:
        assert judged.run("--baseline", serve(Instance(judged.clock, error_rate=0.002)), "--candidate", url) == 0
    assert "waiting for the candidate" in judged.text and "gap" not in judged.text


def test_the_time_allowed_bounds_the_wait_for_a_candidate_too(judged: Judged, serve: Callable[[Instance], str]) -> None:
    arms = ["--baseline", serve(Instance(judged.clock)), "--candidate", f"http://127.0.0.1:{free_port()}"]
    began_s = judged.clock.now_s()
    with pytest.raises(CannotJudge, match="no instance served a single request"):
        judged.run(*arms, "--max-minutes", "2")
    assert judged.clock.now_s() - began_s == pytest.approx(120, abs=11)


def test_without_a_reference_nothing_can_be_judged(judged: Judged, serve: Callable[[Instance], str]) -> None:
    arms = ["--baseline", serve(Instance(judged.clock, broken="")), "--candidate", serve(Instance(judged.clock))]
    with pytest.raises(CannotJudge, match="http://"):
        judged.run(*arms)


@pytest.mark.parametrize(
    "option",
    ["--window-s=inf", "--window-s=nan", "--window-s=0", "--max-minutes=inf", "--margin=nan", "--edge=inf", "--budget=-1"],
)
def test_a_number_that_makes_no_sense_is_no_verdict(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge.main(["--baseline", "http://a:1", "--candidate", "http://b:1", option]) == 3
    key = option.removeprefix("--").partition("=")[0].replace("-", "_")
    assert capsys.readouterr().err.startswith(f"evenkeel judge: {key}: expected a number from")


def test_an_error_of_ours_is_no_verdict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(judge, "judge", lambda *_: 1 / 0)
    assert judge.main([]) == 3
    said = capsys.readouterr().err
    assert said.startswith("evenkeel judge: an error of ours: ZeroDivisionError in ") and said.count("\n") == 1


def test_a_reader_that_leaves_is_no_verdict(judged: Judged, serve: Callable[[Instance], str]) -> None:
    judged.run(*pair(judged, serve))
    command = [sys.executable, "-c", "import sys; from evenkeel.sidecar.rollout.judge import main; sys.exit(main())"]
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run(
        [*command, "--replay", str(judged.folder / "log.jsonl")], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (run.returncode, run.stderr) == (3, "")


def test_the_replay_gives_the_same_verdict_and_the_same_record(judged: Judged, serve: Callable[[Instance], str]) -> None:
    assert judged.run(*pair(judged, serve, error_rate=0.01), "--json") == 1
    live = judged.lines.pop()
    log = judged.folder / "log.jsonl"
    assert judge.judge(["--replay", str(log), "--json"], judged.clock, judged.lines.append) == 1
    assert judged.lines == [live]
    assert json.loads(log.read_text().splitlines()[-1]) == {"decision": json.loads(live)}


def test_a_replay_of_a_changed_log_is_refused(judged: Judged, serve: Callable[[Instance], str]) -> None:
    judged.run(*pair(judged, serve))
    log = judged.folder / "log.jsonl"
    log.write_text(log.read_text().replace('"decision":"promote"', '"decision":"rollback"'))
    with pytest.raises(CannotJudge, match="its windows do not give that record"):
        judge.judge(["--replay", str(log)], judged.clock, judged.lines.append)


def test_an_interrupt_gives_the_verdict_as_it_stands(judged: Judged, serve: Callable[[Instance], str]) -> None:
    def interrupt(now_s: float) -> None:
        if now_s > 5100:
            raise KeyboardInterrupt

    judged.clock.on_sleep = interrupt
    assert judged.run(*pair(judged, serve)) == 2
    assert "hold after 100 s" in judged.text and (judged.folder / "log.jsonl").exists()


def test_an_interrupt_before_anything_is_known_ends_as_any_command_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*unused: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(judge.Direct, "look", interrupt)
    assert judge.main(["--candidate", "c:1", "--production", "p:1"]) == 130
    assert capsys.readouterr().err == "evenkeel judge: interrupted before there was a verdict\n"


class RunningClock(StepClock):
    """No two reads of it are the same, as of a real one."""

    def now_s(self) -> float:
        self.at_s += 1e-9
        return self.at_s


def test_what_is_waited_for_is_said_at_the_start(tmp_path: Path, serve: Callable[[Instance], str]) -> None:
    judged = Judged(tmp_path, RunningClock())
    judged.run(*pair(judged, serve))
    assert judged.lines[0].startswith("comparing candidate and baseline: a look every 10 s, a promotion after 10 min")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--candidte", "c:1"], "--candidte is no option; did you mean --candidate?"),
        (["--candidat", "c:1"], "did you mean --candidate?"),
        (["--xyz"], "--xyz is no option (see"),
        (["--max-minutes", "x", "--only-check"], "invalid float value: 'x'"),
        (["--max-minutes", "-1", "--only-check"], "max_minutes"),
    ],
)
def test_a_wrong_word_is_told_with_the_nearest_option(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge.main(words) == 3
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1


# Prometheus


def test_a_prometheus_server_can_be_asked_instead(judged: Judged) -> None:
    arms = {
        "old": {n: Instance(judged.clock, error_rate=0.002) for n in ("o1:8080", "o2:8080")},
        "new": {n: Instance(judged.clock, error_rate=0.002) for n in ("n1:8080", "n2:8080")},
    }
    selectors = ["--baseline", 'track="old"', "--candidate", 'track="new"']
    with serving(prometheus(arms, {})) as url:
        assert judged.run("--prometheus", url, *selectors) == 0
    log = (judged.folder / "log.jsonl").read_text()
    assert '"instance":"n2:8080"' in log


def test_a_sample_that_prometheus_only_repeats_is_a_gap_and_then_a_candidate_that_is_gone(judged: Judged) -> None:
    stale: dict[str, float] = {}
    arms = {"old": {"o": Instance(judged.clock)}, "new": {"n": Instance(judged.clock)}}

    def freeze(now_s: float) -> None:
        if now_s >= 5050:
            stale["n"] = 5040.0

    judged.clock.on_sleep = freeze
    with serving(prometheus(arms, stale)) as url:
        argv = ["--prometheus", url, "--baseline", 'track="old"', "--candidate", 'track="new"', "--max-minutes", "7"]
        assert judged.run(*argv) == 1
    assert "no new sample since the last look" in judged.text and "data_gap" in judged.text
    assert "candidate_gone" in judged.text


def test_a_selector_that_finds_nothing_cannot_be_judged(judged: Judged) -> None:
    with (
        serving(prometheus({"old": {"o": Instance(judged.clock)}}, {})) as url,
        pytest.raises(CannotJudge, match="no instance has"),
    ):
        judged.run("--prometheus", url, "--baseline", 'track="old"', "--candidate", 'track="new"')


def test_an_answer_that_is_not_prometheus_is_named() -> None:
    with serving(lambda path: (200, "<html>")) as url:
        found = Prometheus(url, {Arm.CANDIDATE: 'a="b"'}, 1.0).look(0.0)
    assert list(found.missing.values()) == [f"{url}: not an answer of a Prometheus server"]


# Controllers that ask


def test_controllers_are_answered_while_the_verdict_is_being_found(judged: Judged, serve: Callable[[Instance], str]) -> None:
    """At 100 s nothing is proven yet, at 610 s it is, and then the candidate fails."""
    new, answers = Instance(judged.clock, error_rate=0.002), {}

    def ask(now_s: float) -> None:
        url = judged.lines[0].removeprefix("listening on ")
        if now_s in (5100.0, 5610.0, 5700.0):
            hooks = ("confirm-promotion", "rollback")
            decision = json.loads(fetch(f"{url}/rollout/decision", 5.0))["decision"]
            answers[now_s] = (decision, *(post(f"{url}/rollout/flagger/{hook}") for hook in hooks))
        if now_s == 5650.0:
            new.state, new.ready = "FAILED", 0
        if now_s > 5700.0:
            raise KeyboardInterrupt

    judged.clock.on_sleep = ask
    base = serve(Instance(judged.clock, error_rate=0.002))
    assert judged.run("--baseline", base, "--candidate", serve(new), "--listen", "127.0.0.1:0") == 1
    assert answers == {5100.0: ("hold", 403, 403), 5610.0: ("promote", 200, 403), 5700.0: ("rollback", 403, 200)}
    assert "candidate_failed" in judged.text


def post(url: str) -> int:
    try:
        with urlopen(Request(url, data=b'{"name":"x","phase":"Progressing"}'), timeout=5) as answer:
            return int(answer.status)
    except HTTPError as e:
        return e.code


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/rollout/decision", 200),
        ("GET", "/rollout/decision/?x=1", 200),
        ("POST", "/rollout/decision", 405),
        ("POST", "/rollout/flagger/confirm-promotion", 403),
        ("POST", "/rollout/flagger/confirm-traffic-increase", 403),
        ("POST", "/rollout/flagger/rollback", 403),
        ("GET", "/rollout/flagger/rollback", 405),
        ("POST", "/rollout/flagger/", 404),
        ("POST", "/confirm-promotion", 404),
        ("GET", "/", 404),
    ],
)
def test_only_a_clear_yes_opens_a_gate(method: str, path: str, status: int) -> None:
    found = adapters.answer(method, path, {"decision": "hold", "reasons": [{"code": "too_soon"}]})
    assert found.status == status
    assert status != 403 or found.body == {"decision": "hold", "reasons": ["too_soon"]}


# What cannot be judged: exit 3 and one line


def command(*argv: str, cwd: Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "evenkeel.container", "judge", *argv], capture_output=True, text=True, cwd=cwd,
        env={"PYTHONPATH": str(Path(__file__).parents[3])}, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "give --candidate and --baseline"),
        (["--baseline", "a:1"], "give --candidate and --baseline"),
        (["--colour"], "--colour is no option"),
        (["--window-s", "soon"], "invalid float value"),
        (["--baseline", "127.0.0.1:1", "--candidate", "127.0.0.1:2"], "http://127.0.0.1:1/metrics: [Errno 111]"),
        (["--baseline", "ftp://a", "--candidate", "b"], "ftp://a: not an HTTP address"),
        (["--baseline", "a:1", "--candidate", "a:1"], "the same instance is named in two arms"),
        (["--baseline", "a:1", "--candidate", "b:1", "--split", "half"], "--split half: expected something like"),
        (["--baseline", "a:1", "--candidate", "b:1", "--bad-ratio", "1.1"], "bad_ratio must be above margin"),
        (["--baseline", "a:1", "--candidate", "b:1", "--window-s", "0"], "window_s: expected a number from 0.5"),
        (["--baseline", "a:1", "--candidate", "b:1", "--listen", "here"], "--listen here: expected HOST:PORT"),
        (["--baseline", "a:1", "--candidate", "b:1", "--listen", "192.0.2.1:1"], "cannot listen on 192.0.2.1:1"),
        (["--replay", "nothing.jsonl"], "nothing.jsonl: No such file or directory"),
    ],
)
def test_what_cannot_be_judged_exits_3_with_one_line(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge.main(argv) == 3
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and said.out == ""


def test_the_command_line_starts_the_judge(tmp_path: Path) -> None:
    code, out, err = command("--baseline", "127.0.0.1:1", "--candidate", "127.0.0.1:2", cwd=tmp_path)
    assert (code, out) == (3, "") and err.startswith("evenkeel judge: http://127.0.0.1:1/metrics")
    code, out, _ = command("--help", cwd=tmp_path)
    assert code == 0 and "--candidate" in out


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("<html>hello</html>", "this is not Prometheus text"),
        ("", "there are no evenkeel metrics in it"),
        ("# TYPE x counter\nx_total 1\n", "there are no evenkeel metrics in it"),
        ('evenkeel_requests_total{code="200"} NaN\n', "not finite or beyond 9007199254740992, which no counter can be"),
        ('evenkeel_requests_total{code="200"} -1\n', "is negative, not finite"),
        ('evenkeel_request_seconds_bucket{le="soon"} 1\n', "without a readable edge"),
        ('evenkeel_requests_total{code="200" 1\n', "this is not Prometheus text"),
    ],
)
def test_garbage_instead_of_metrics_is_named(judged: Judged, serve: Callable[[Instance], str], body: str, words: str) -> None:
    good, bad = serve(Instance(judged.clock)), serve(Instance(judged.clock, broken=body))
    with pytest.raises(CannotJudge, match=words):
        judged.run("--baseline", good, "--candidate", bad)


def test_an_error_status_is_no_data(judged: Judged) -> None:
    with serving(lambda path: (503, "not now")) as url, pytest.raises(CannotJudge, match="it answers with status 503"):
        judged.run("--baseline", url, "--candidate", url.replace("127.0.0.1", "localhost"))


def test_an_answer_that_drips_in_is_given_up_by_its_deadline() -> None:
    """Each byte comes in time, the whole never does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=drip, args=(server,), daemon=True).start()
        started_s = time.monotonic()
        with pytest.raises(CannotJudge, match="no whole answer"):
            fetch(f"http://127.0.0.1:{server.getsockname()[1]}/metrics", 0.3)
        assert time.monotonic() - started_s < 20, "the peer sends for ever"


def drip(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection, suppress(OSError):
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"#")
            time.sleep(0.05)


def test_no_request_anywhere_cannot_be_judged(judged: Judged, serve: Callable[[Instance], str]) -> None:
    idle = [serve(Instance(judged.clock, rps=0)) for _ in range(2)]
    with pytest.raises(CannotJudge, match="no instance served a single request in 360 s"):
        judged.run("--baseline", idle[0], "--candidate", idle[1], "--max-minutes", "6")


def test_a_log_that_cannot_be_written_is_named(judged: Judged, serve: Callable[[Instance], str]) -> None:
    with pytest.raises(CannotJudge, match="cannot write /nowhere/log"):
        judge.judge([*pair(judged, serve), "--log", "/nowhere/log"], judged.clock, judged.lines.append)


def test_an_address_without_a_path_means_its_metrics() -> None:
    assert metrics_url("host:8080") == metrics_url("http://host:8080/") == "http://host:8080/metrics"
    assert metrics_url("https://host/x/metrics") == "https://host/x/metrics"
    assert targets({Arm.CANDIDATE: ["a:1", "b:1"]}) == {
        Key(Arm.CANDIDATE, "a:1"): "http://a:1/metrics",
        Key(Arm.CANDIDATE, "b:1"): "http://b:1/metrics",
    }


# The text


def test_the_text_is_read_whole() -> None:
    clock = StepClock(5010.0)
    samples = scrape.from_text(Instance(clock, error_rate=0.01, restarts=2).text())
    s = scrape.build(samples, Key(Arm.CANDIDATE, "a"), 10.0)
    assert s.codes == {"200": 1980, "500": 20}
    assert s.restarts == {"engine died": 2}
    assert (s.ready, s.state) == (True, "READY")
    assert s.seconds[-1] == (float("inf"), 2000) and s.seconds[0] == (0.016, 990)


@pytest.mark.parametrize(
    ("engines", "state"),
    [
        ("failed 1 ready 3", "FAILED"),
        ("ready 1 loading 1", "READY"),
        ("closed 2", "CLOSED"),
        ("draining 1 closed 1", "DRAINING"),
        ("", ""),
    ],
)
def test_the_most_telling_of_the_engines_states_is_taken(engines: str, state: str) -> None:
    words = engines.split()
    text = (
        "".join(f'evenkeel_state{{state="{s}"}} {n}\n' for s, n in zip(words[::2], words[1::2], strict=True))
        + "evenkeel_ready 1\n"
    )
    assert scrape.build(scrape.from_text(text), Key(Arm.CANDIDATE, "x"), 0.0).state == state


def test_models_are_added_up_or_one_is_chosen() -> None:
    text = 'evenkeel_requests_total{model="a",code="200"} 5\nevenkeel_requests_total{model="b",code="200"} 7\nevenkeel_ready 0\n'
    samples = scrape.from_text(text)
    assert scrape.build(samples, Key(Arm.CANDIDATE, "x"), 0.0).codes == {"200": 12}
    one = scrape.build(samples, Key(Arm.CANDIDATE, "x"), 0.0, "b")
    assert one.codes == {"200": 7} and one.ready is False


def test_metrics_of_others_are_passed_over() -> None:
    text = 'python_info{x="y"} 1\nevenkeel_batches_total 3\nevenkeel_ready 1\n'
    assert [s.name for s in scrape.from_text(text)] == ["evenkeel_ready"]
    with pytest.raises(BadMetrics):
        scrape.from_text("python_info 1\n")
