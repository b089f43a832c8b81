"""What benchmarks/gpu.py makes of what it measured, and its clients. All of it runs by `python -m benchmarks.gpu --dry-run`."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from benchmarks import gpu_servers, plot
from benchmarks.gpu import MADE, OutOfTime, Run
from benchmarks.gpu_load import Arrivals, Client, Load, Plan, together
from benchmarks.gpu_peers import batched, decoded, encoded
from benchmarks.gpu_report import (
    CNN,
    ENCODER,
    GRAPHS,
    PEERS,
    PLAIN,
    Fault,
    Point,
    Row,
    Served,
    Work,
    alone,
    beside,
    best,
    best_rate,
    markdown,
    panels,
    point,
    recovered,
    rows,
    speed,
)
from benchmarks.gpu_wire import ask, npy, requests

RATES = {"1": {"1": 100.0, "8": 1000.0}}


def at(rate: float, p99_s: float = 0.01, due: float | None = None, lost: int = 0, share: float = 0.9) -> Point:
    return Point(share, due if due is not None else rate, rate, p99_s / 2, p99_s, 0, 0, lost)


def work(name: str = CNN, points: tuple[Point, ...] = (), server: str = PLAIN, **more: object) -> Work:
    return Work(name, RATES, served={server: Served(points=list(points))}, **more)  # type: ignore[arg-type]


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_what_was_not_measured_stays_blank() -> None:
    for name in (CNN, ENCODER):
        found = list(rows(Work(name, faults={"kill -9": Fault()})))
        assert len(found) >= 4 and {(r.measured, r.met) for r in found} == {(None, None)}
    text = markdown("GPU", [("card", "H200")], [Work(CNN)], ["cnn: no time was left"])
    assert "| cnn, evenkeel: open load |  |  | at least 0.90 × the bare model |  |" in text and "- cnn: no time was left" in text


def test_mixed_lengths_are_weighted_by_their_words_at_their_best_batches() -> None:
    assert best_rate({"10": {"1": 10.0, "8": 100.0}, "30": {"8": 300.0}}) == pytest.approx(40 / (0.1 + 0.1))


def test_a_load_that_piles_up_loses_something_or_is_late_counts_for_nothing() -> None:
    assert at(98, due=100).kept_up and not at(97, due=100).kept_up and not at(100, lost=1).kept_up
    kept, late = at(800), at(900, p99_s=0.06)
    assert best([kept, late, at(950, due=1000)], 0.05) == kept and best([kept, late], float("inf")) == late
    assert best([], 1.0) is None


def test_the_bar_is_a_share_of_the_bare_model_or_what_http_lets_through_whichever_is_lower() -> None:
    assert speed(work(points=(at(900),), bytes_rate=5000.0), PLAIN).met is True
    assert speed(work(points=(at(899),), bytes_rate=5000.0), PLAIN).met is False
    lower = speed(work(points=(at(500),), bytes_rate=500.0), PLAIN)
    assert lower.met is True and lower.limit is not None and "bytes through HTTP" in lower.limit
    assert speed(work(points=(at(899),)), PLAIN).met is None, "the other limit may be lower, and is not known"
    assert speed(work(points=()), PLAIN).met is None


def test_the_encoder_has_a_latency_to_keep() -> None:
    assert speed(work(ENCODER, (at(850),)), PLAIN).met is True
    late = speed(work(ENCODER, (at(900, p99_s=0.06),)), PLAIN)
    assert late.met is False and late.measured is not None and "none of 1 loads" in late.measured


def test_one_request_may_take_the_bare_models_time_and_a_little() -> None:
    def asked(p50_s: float) -> Row:
        return alone(Work(CNN, alone_s=0.001, served={PLAIN: Served(alone=Load(1.0, latency_s=[p50_s]))}), PLAIN)

    assert asked(0.00125).met is True and asked(0.00135).met is False


def test_ours_is_compared_at_the_p99_that_the_peer_has() -> None:
    found = work(points=(at(700, 0.01), at(900, 0.1)))
    found.served["mosec"] = Served("batches of 64", points=[at(300, 0.02), at(400, 0.5, due=900)])
    row = beside(found, "mosec")
    assert row.met is True and row.measured is not None and row.measured.startswith("2.33 ×")
    found.served["mosec"] = Served("batches of 64", points=[at(300, 0.005)])
    assert beside(found, "mosec").met is False, "none of ours is as soon"
    assert beside(found, "litserve").met is None
    found.served[GRAPHS] = Served(points=[at(650, 0.004)])
    assert beside(found, "mosec").met is True, "whichever of ours is better"


def test_a_fault_is_met_when_nothing_is_lost_and_the_card_is_used_again_soon() -> None:
    assert recovered("kill", Fault(Load(right=99), 3.0)).met is True
    assert recovered("kill", Fault(Load(right=99, lost=1), 3.0)).met is False
    assert recovered("kill", Fault(Load(right=99), 11.0)).met is False
    assert recovered("kill", Fault(Load(right=99), None)).met is None, "it never came back, as far as was seen"


def test_clients_that_ran_together_add_up() -> None:
    found = together([Load(2.0, 12, 10, 10, 1, 0, 1, [0.1]), Load(2.1, 6, 5, 5, 0, 2, 0, [0.3])])
    assert found == Load(2.1, 18, 15, 15, 1, 2, 1, [0.1, 0.3])
    assert point(0.9, found).rate == pytest.approx(15 / 2.1) and point(0.9, Load(1.0)).p99_s is None


def test_the_picture_has_a_panel_for_each_work_and_no_line_without_a_point() -> None:
    found = work(points=(at(800),))
    found.served["mosec"] = Served()
    (panel,) = panels([found, Work(ENCODER)])
    assert panel.unit == "images/s" and list(panel.lines) == [PLAIN] and panel.lines[PLAIN][0].p99_ms == 10


def test_a_peer_that_keeps_up_with_nothing_is_no_peer_that_was_not_measured() -> None:
    found = work(points=(at(800),))
    assert (beside(found, "mosec").limit, beside(found, "mosec").met) == (None, None)
    found.served["mosec"] = Served(points=[at(100, due=200)])
    assert (beside(found, "mosec").limit, beside(found, "mosec").met) == ("none of its 1 loads was kept up with", None)


def test_every_server_that_any_benchmark_draws_has_a_color() -> None:
    assert {plot.RAW, PLAIN, GRAPHS, *PEERS} <= set(plot.COLORS), "the legend names no other"


# ---- the story -------------------------------------------------------------------------------------------------------


def test_a_stage_that_fails_is_noted_and_the_rest_goes_on(tmp_path: Path) -> None:
    run = Run(tmp_path, tiny=True, processes=1)

    def fails() -> None:
        raise RuntimeError("no card")

    def over() -> None:
        raise OutOfTime("over")

    run.stage("cnn: bare", fails)
    run.stage("cnn: served", over)
    run.end_s = 0.0
    run.stage("encoder: served", fails)
    assert run.notes == ["cnn: bare: RuntimeError: no card", "cnn: served: no time was left for all of it",
                         "encoder: served: no time was left"]  # fmt: skip


def test_only_what_is_asked_for_is_done_and_the_rest_is_noted(tmp_path: Path) -> None:
    run, done = Run(tmp_path, tiny=True, processes=1, only=("graphs",)), list[str]()
    for what in (MADE, "cnn by mosec", "cnn: with CUDA graphs"):
        run.stage(what, lambda: done.append(what))  # noqa: B023  a stage is over when it returns
    assert done == [MADE, "cnn: with CUDA graphs"], "models are needed for everything"
    assert run.notes == ["cnn by mosec: left out, by --only"]


def test_servers_that_start_together_are_waited_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_servers, "READY_S_MAX", 0.5)
    begun_s = time.monotonic()
    servers = [gpu_servers.Server(("timeit", "-n1", "-r1", "import time; time.sleep(60)"), 1, b"", {}) for _ in range(4)]
    for server in servers:
        with pytest.raises(RuntimeError, match="did not start"), server:
            raise AssertionError("it never answers")
    assert time.monotonic() - begun_s < 1.5 and not gpu_servers.Server.running, "not half a second for each, and none is left"


# ---- clients ---------------------------------------------------------------------------------------------------------


def test_arrivals_have_the_rate_that_was_asked_for_and_do_not_wait() -> None:
    arrivals = Arrivals(1000.0, seed=3, start_s=10.0)
    due = [d for now_s in np.arange(10.0, 20.0, 0.01) for d in arrivals.until(now_s)]
    assert len(due) == pytest.approx(10_000, rel=0.05) and due == sorted(due)
    gaps = np.diff(due)
    assert fmean(gaps) == pytest.approx(0.001, rel=0.05) and gaps.std() == pytest.approx(0.001, rel=0.1), "as Poisson's are"


class Slow:
    """Answers one request after the other, each after `seconds`."""

    def __init__(self, seconds: float, status: int = 200) -> None:
        self._seconds, self._answer = seconds, b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        open_ = [self._listener]
        while not self._ends.is_set():
            for each in select.select(open_, [], [], 0.01)[0]:
                if each is self._listener:
                    open_.append(each.accept()[0])
                elif each.recv(1 << 16):
                    time.sleep(self._seconds)
                    each.sendall(self._answer)
                else:
                    open_.remove(each)
                    each.close()
        for each in open_:
            each.close()

    def end(self) -> None:
        self._ends.set()
        self._thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "a.x.npy", np.zeros((1, 7), np.int64))
    return tmp_path


@pytest.fixture(params=[200, 503, 500])
def slow(request: pytest.FixtureRequest) -> Iterator[tuple[Slow, int]]:
    server = Slow(0.01, request.param)
    yield server, request.param
    server.end()


def ran(plan: Plan) -> Load:
    client = Client(plan)
    client.connect()
    return client.run(time.monotonic())


def test_an_open_load_goes_on_whatever_the_server_does_and_latency_counts_from_when_a_request_was_due(folder: Path) -> None:
    """It can answer a hundred a second, and gets two hundred: those that wait are late, and in the end some are lost."""
    server = Slow(0.01)
    load = ran(Plan(server.port, str(folder), 1.0, connections=4, rate=200.0, patience_s=5.0))
    server.end()
    assert load.due == pytest.approx(7 * 200, rel=0.3), "words"
    assert load.right + load.unsent + load.lost == load.due / 7 and load.units < load.due
    assert max(load.latency_s) > 0.3, "ever later"


def test_answers_are_told_apart_from_refusals_and_losses(folder: Path, slow: tuple[Slow, int]) -> None:
    server, status = slow
    load = ran(Plan(server.port, str(folder), 0.3, connections=2))
    counts = {200: load.right, 503: load.refused, 500: load.lost}
    assert counts.pop(status) > 0 and set(counts.values()) == {0}


def test_a_server_that_is_not_there_loses_what_is_asked(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    load = ran(Plan(port, str(folder), 0.2, connections=2))
    assert load.lost > 0 and load.right == 0


def test_an_answer_is_read_however_it_is_cut() -> None:
    ours, theirs = socket.socketpair()

    def reply() -> None:
        for byte in b"HTTP/1.1 503 No\r\nContent-Length: 3\r\n\r\nabc":
            theirs.send(bytes((byte,)))

    thread = threading.Thread(target=reply)
    thread.start()
    assert ask(ours, b"x") == (503, b"abc")
    thread.join()
    theirs.close()
    with pytest.raises(OSError):
        ask(ours, b"x")
    ours.close()


# ---- peers -----------------------------------------------------------------------------------------------------------


def test_bodies_of_peers_are_numpys_own(folder: Path) -> None:
    (data, words), *_ = requests(folder)
    body = data.partition(b"\r\n\r\n")[2]
    assert words == 7 and all(np.array_equal(decoded(b), np.zeros((1, 7), np.int64)) for b in (body, bytearray(body)))
    row = np.arange(4, dtype=np.float32)
    assert encoded(row) == npy(row[None])


def test_words_of_different_lengths_are_filled_up_with_padding() -> None:
    batch = batched([np.ones((1, 2), np.int64), np.ones((1, 3), np.int64)])
    assert batch.tolist() == [[1, 1, 0], [1, 1, 1]]
