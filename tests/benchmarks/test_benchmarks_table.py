"""The table of workloads: what is sent, how an answer is compared, what windows say together, and which bars are met."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench
from benchmarks.peers import work
from benchmarks.table import picture, records, workloads
from benchmarks.table.bars import BEFORE_FIXED, OURS_FIXED, Idle, verdicts
from benchmarks.table.bodies import fault, samples
from benchmarks.table.contenders import BARE, EVENKEEL
from benchmarks.table.dialects import Plain, Triton
from benchmarks.table.ratios import interval, ratio, row
from benchmarks.table.raw_model import RAW
from benchmarks.table.report import TableResults, markdown
from benchmarks.table.servers import peers
from benchmarks.table.windows import LoadResult, Window
from benchmarks.table.workloads import HANDLERS, JSON, LEAD, NPY, ONNX_MODELS, PICTURE, WORKLOADS, chosen

LEAD_WORK = WORKLOADS["json-64"]
PEER_WORK = WORKLOADS["handler-64"]
ALONE_WORK = WORKLOADS["json-1"]
OPEN_WORK = WORKLOADS["json-open"]


def window(work_: workloads.Workload, who: str, rps: float, p99_ms: float = 1.0, round_: int = 0, **load: float) -> Window:
    told = LoadResult(seconds=1.0, requests=int(rps), p50_ms=p99_ms / 2, p99_ms=p99_ms, max_ms=p99_ms, **load)  # type: ignore[arg-type]
    return Window(work_.name, who, round_, rps, told, 10.0, {"front": 10.0}, 1.0, 0.5, 0.0, 0.0, 1.0)


def windows(work_: workloads.Workload, **by_contender: tuple[float, float]) -> dict[tuple[str, str], list[Window]]:
    """Seven rounds of each, at requests a second and a p99."""
    return {(work_.name, who): [window(work_, who, rps, p99, i) for i in range(7)] for who, (rps, p99) in by_contender.items()}


def judged(work_: workloads.Workload, **by_contender: tuple[float, float]) -> dict[str, bool | None]:
    rows = {key: row(found) for key, found in windows(work_, **by_contender).items()}
    return {v.bar: v.met for v in verdicts([work_], rows, None) if v.work == work_.name}


# ---- the data --------------------------------------------------------------------------------------------------------


def test_workloads_have_names_of_their_own_and_models_that_there_are() -> None:
    everything = (*workloads.SHORT, *workloads.MORE)
    assert len(WORKLOADS) == len(everything)
    assert {w.model for w in everything} == {*ONNX_MODELS, *HANDLERS}


def test_the_table_holds_every_kind_of_work_that_it_promises() -> None:
    assert {w.connections for w in WORKLOADS.values()} == {1, 8, 64, 256}
    assert {w.wire for w in workloads.SHORT if w.bar == LEAD} == {"json", "npy", "csv"}
    assert any(w.fresh for w in workloads.SHORT) and any(w.load == 0.5 for w in workloads.SHORT)
    assert {(16, 16), (1, 100)} <= {w.rows for w in workloads.SHORT} and any(w.pads for w in workloads.SHORT)


def test_workloads_that_need_the_same_servers_come_one_after_another() -> None:
    groups = [w.group for w in chosen("", every=True)]
    changes = sum(a != b for a, b in pairwise(groups))
    assert changes == len(set(groups)) - 1


def test_an_unknown_workload_is_refused() -> None:
    with pytest.raises(KeyError, match="json-65"):
        chosen("json-64,json-65", every=False)


# ---- bodies and answers ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of ten reference rows that doubles."""
    rows = np.arange(20, dtype=np.float32).reshape(10, 2)
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "answers.npy", rows * 2)
    return tmp_path


def test_mixed_rows_are_every_number_once_and_carry_their_own_answers(folder: Path) -> None:
    found = samples(WORKLOADS["json-rows-mixed"], folder)
    lengths = [len(s.value) for s in found]
    assert sorted(lengths) == list(range(1, 101)) and lengths != sorted(lengths)
    assert all(fault(np.asarray(s.value) * 2, s.answer) is None for s in found)


def test_one_row_bodies_are_as_many_as_the_reference_has_rows(folder: Path) -> None:
    assert [len(s.value) for s in samples(LEAD_WORK, folder)] == [1] * 10


def test_bodies_are_the_same_every_time() -> None:
    first, second = (samples(WORKLOADS["texts-64"], Path()) for _ in range(2))
    assert first == second and len({json.dumps(s.value) for s in first}) > 60


def test_a_handlers_answer_is_that_of_its_work() -> None:
    sample = samples(WORKLOADS["picture-64"], Path())[0]
    assert isinstance(sample.value, bytes) and len(sample.value) == 150_000 and sample.value[:2] == b"\xff\xd8"
    assert sample.answer == work.describe(sample.value)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (np.array([[1.0, 2.0]]), None),
        (np.array([[1.0, 2.0004]]), None),
        (np.array([[1.0, 2.1]]), "off by 0.1"),
        (np.array([1.0, 2.0]), "shape (2,) is not (1, 2)"),
        (np.array([[1.0, np.nan]]), "off by nan"),
        (["1", "2"], "list is no array"),
    ],
)
def test_an_answer_of_numbers_is_right_within_the_tolerance(found: object, says: str | None) -> None:
    assert fault(found, np.array([[1.0, 2.0]])) == says  # type: ignore[arg-type]


def test_an_answer_that_is_no_array_must_be_equal() -> None:
    assert fault(["a"], ["a"]) is None
    assert fault(["a"], ["b"]) == "['a'] is not ['b']"


def test_plain_bodies_are_what_the_contract_says_and_their_answers_are_read_back() -> None:
    plain, rows = Plain("/invocations"), np.array([[1.5, 2.0]], np.float32)
    assert json.loads(plain.request(JSON, rows).body) == {"instances": [[1.5, 2.0]]}
    assert plain.request("csv", rows).body == b"1.5,2.0\n"
    assert np.array_equal(plain.answer(NPY, {}, plain.request(NPY, rows).body), rows)
    assert np.array_equal(plain.answer("csv", {}, b"1.5,2\n3,4\n"), [[1.5, 2], [3, 4]])
    assert plain.answer(JSON, {}, b'{"predictions": ["x", "y"]}') == ["x", "y"]


def test_tritons_binary_bodies_say_where_their_head_ends() -> None:
    request = Triton().request(PICTURE, b"abc")
    head = int(request.headers["Inference-Header-Content-Length"])
    assert request.body[head:] == b"\x03\x00\x00\x00abc"
    assert json.loads(request.body[:head])["inputs"][0]["parameters"]["binary_data_size"] == 7


def test_records_are_read_as_they_were_written() -> None:
    requests = [
        Plain("/p").request(JSON, ["a\nb"]),
        Plain("/p").request(PICTURE, b"\r\n1 2\n"),
        Plain("/p").request(PICTURE, b""),
    ]
    found = records.read(records.written(requests))
    assert [r.body for r in found] == [r.body for r in requests]
    assert found[1].head == b"Content-Type: image/jpeg\r\n"


def test_no_two_requests_share_their_ids() -> None:
    assert len({records.own_ids(seed, count) for seed in range(3) for count in range(100)}) == 300


# ---- windows together ------------------------------------------------------------------------------------------------


def test_a_ratio_is_taken_within_each_round_so_that_a_slow_minute_changes_nothing() -> None:
    speeds = [1.0, 0.5, 0.25, 1.0, 1.0, 0.1, 1.0]
    ours = row([window(LEAD_WORK, EVENKEEL, 2000 * s, round_=i) for i, s in enumerate(speeds)])
    theirs = row([window(LEAD_WORK, "mosec", 1000 * s, round_=i) for i, s in enumerate(speeds)])
    found = ratio(ours, theirs, lambda w: w.rps)
    assert found is not None and (found.median, found.low, found.high, found.pairs) == (2.0, 2.0, 2.0, 7)


def test_a_round_that_one_side_missed_is_no_pair() -> None:
    ours = row([window(LEAD_WORK, EVENKEEL, 1000, round_=i) for i in range(3)])
    theirs = row([window(LEAD_WORK, "mosec", 1000, round_=5)])
    assert ratio(ours, theirs, lambda w: w.rps) is None


def test_the_interval_holds_the_median_and_is_the_same_every_time() -> None:
    values = [1.0, 1.1, 0.9, 1.05, 0.95, 1.2, 0.8]
    low, high = interval(values)
    assert 0.8 <= low < 1.0 < high <= 1.2 and interval(values) == (low, high)


def test_cpu_of_a_row_is_weighed_by_its_requests() -> None:
    few, many = window(LEAD_WORK, EVENKEEL, 100), window(LEAD_WORK, EVENKEEL, 300, round_=1)
    found = row(
        [few, Window(**{**{n: getattr(many, n) for n in Window.__dataclass_fields__}, "cpu_us_by_role": {"front": 30.0}})]
    )
    assert found.cpu_us == pytest.approx((100 * 10 + 300 * 30) / 400)


# ---- bars ------------------------------------------------------------------------------------------------------------


def test_the_leads_bars_are_those_of_the_issue() -> None:
    others = {
        OURS_FIXED: (100.0, 1.0),
        "mosec": (50.0, 2.0),
        "triton": (20.0, 4.0),
        "uncounted": (100.0, 1.0),
        BARE: (180.0, 1.0),
    }
    met = judged(LEAD_WORK, **{EVENKEEL: (98.0, 1.4), **others})
    assert met == {
        "requests/s ≥ 0.85 × evenkeel, fixed heads": True,
        "requests/s ≥ 1.8 × mosec": True,
        "p99 ≤ 0.7 × mosec": True,
        "requests/s ≥ 4 × triton": True,
        "requests/s ≥ 0.97 × uncounted": True,
        "evenkeel, fixed heads: requests/s ≥ 0.98 × before, fixed heads": None,
        "requests/s ≥ 0.5 × bare httptools": True,
    }
    worse = judged(LEAD_WORK, **{EVENKEEL: (79.0, 1.5), **others})
    assert [bar for bar, is_met in worse.items() if is_met] == []


def test_fixed_heads_are_held_against_the_commit_before() -> None:
    bar = "evenkeel, fixed heads: requests/s ≥ 0.98 × before, fixed heads"
    assert judged(LEAD_WORK, **{OURS_FIXED: (98.0, 1.0), BEFORE_FIXED: (100.0, 1.0)})[bar] is True
    assert judged(LEAD_WORK, **{OURS_FIXED: (97.0, 1.0), BEFORE_FIXED: (100.0, 1.0)})[bar] is False


def test_one_connection_is_judged_by_its_p50() -> None:
    met = judged(ALONE_WORK, **{EVENKEEL: (1.0, 2.0), BARE: (1.0, 1.0), "triton": (1.0, 4.0)})
    assert met == {"p50 ≤ 2.2 × bare httptools": True, "p50 ≤ 0.5 × triton": True}


@pytest.mark.parametrize(
    ("others", "met"),
    [
        ({"mosec": (80.0, 1.0), "litserve": (10.0, 0.1)}, True),  # the best peer is the one with the most requests
        ({"mosec": (90.0, 1.0)}, False),
        ({"mosec": (80.0, 0.9)}, False),  # more requests, but a higher p99
        ({"mosec": (90.0, 1.0), RAW: (105.0, 1.0)}, True),  # nearly what the model alone does
        ({"mosec": (90.0, 1.0), RAW: (120.0, 1.0)}, False),
        ({BARE: (500.0, 0.1)}, None),  # no peer
    ],
)
def test_other_work_is_held_against_the_best_peer_or_the_raw_model(
    others: dict[str, tuple[float, float]], met: bool | None
) -> None:
    assert list(judged(PEER_WORK, **{EVENKEEL: (100.0, 1.0), **others}).values()) == [met]


def test_a_peer_that_failed_requests_is_not_the_best() -> None:
    rows = {key: row(found) for key, found in windows(PEER_WORK, evenkeel=(100.0, 1.0), mosec=(80.0, 1.0)).items()}
    rows[PEER_WORK.name, "triton"] = row([window(PEER_WORK, "triton", 500.0, non2xx=3)])
    assert verdicts([PEER_WORK], rows, None)[0].met is True


def test_a_failed_request_of_our_own_passes_nothing() -> None:
    rows = {key: row(found) for key, found in windows(ALONE_WORK, triton=(1.0, 100.0)).items()}
    rows[ALONE_WORK.name, EVENKEEL] = row([window(ALONE_WORK, EVENKEEL, 100.0, errors=1)])
    verdict = verdicts([ALONE_WORK], rows, None)[1]
    assert verdict.met is False and "evenkeel failed 1 requests" in verdict.measured


def test_an_open_load_is_judged_by_p99_unless_the_client_was_late() -> None:
    assert judged(OPEN_WORK, evenkeel=(100.0, 1.0), mosec=(100.0, 1.1), triton=(300.0, 5.0)) == {"p99 ≤ 1 × mosec": True}
    rows = {key: row(found) for key, found in windows(OPEN_WORK, mosec=(100.0, 1.1)).items()}
    rows[OPEN_WORK.name, EVENKEEL] = row([window(OPEN_WORK, EVENKEEL, 100.0, late_ms=3.0)])
    verdict = verdicts([OPEN_WORK], rows, None)[0]
    assert verdict.met is None and "late for evenkeel" in verdict.measured


def test_idle_memory_has_a_bar() -> None:
    assert verdicts([], {}, Idle([0.5], {"front": 100.0, "engine": 51.0}, 0.0))[0].met is False
    assert verdicts([], {}, Idle([0.5], {"front": 100.0, "engine": 49.0}, 0.0))[0].met is True


# ---- the report ------------------------------------------------------------------------------------------------------


def test_the_report_has_a_line_for_each_workload_and_names_what_was_left_out() -> None:
    found = TableResults([LEAD_WORK, PEER_WORK], {"commit": "abc"}, windows(LEAD_WORK, evenkeel=(100.0, 1.0), mosec=(50.0, 2.0)))
    found.notes.append("triton is left out: no python")
    text = markdown(found, "stem", has_picture=True)
    assert "| json-64 | **100, 1.00** | 50.0, 2.00 |" in text and "| handler-64 | – | – |" in text
    assert "| commit | abc |" in text and "- triton is left out: no python" in text and "stem.svg" in text


def test_everything_that_was_measured_is_in_the_json() -> None:
    found = TableResults([LEAD_WORK], {}, windows(LEAD_WORK, evenkeel=(100.0, 1.0), mosec=(50.0, 2.0)))
    told = json.loads(json.dumps(found.to_json()))
    assert len(told["windows"]) == 14 and {r["contender"] for r in told["rows"]} == {"evenkeel", "mosec"}
    assert {v["bar"]: v["met"] for v in told["verdicts"]}["requests/s ≥ 1.8 × mosec"] is True


def test_the_picture_has_a_dot_for_each_contender_of_a_workload() -> None:
    rows = {key: row(found) for key, found in windows(LEAD_WORK, evenkeel=(100.0, 1.0), mosec=(50.0, 2.0)).items()}
    drawn = picture.svg([LEAD_WORK, PEER_WORK], rows, "caption")
    dots = drawn.count("opacity")
    assert dots == 2 and "T, JSON" in drawn
    assert picture.svg([PEER_WORK], rows, "caption") == ""


# ---- the peers -------------------------------------------------------------------------------------------------------


def test_every_peer_that_is_not_measured_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENKEEL_BENCH_PEERS", str(tmp_path))
    options = Namespace(evenkeel=sys.executable, peers="mosec,triton", before=None)
    servers, notes = bench.find_servers(options)
    assert [s.name for s in servers] == [EVENKEEL, BARE, "uncounted"]
    assert [note.split(" is left out: ")[0] for note in notes] == ["mosec", "triton", "litserve", "ray"]
    assert "install.sh" in notes[0] and "not asked for" in notes[2]


def test_a_peer_that_nobody_knows_is_refused() -> None:
    with pytest.raises(SystemExit, match="unknown peers: mosek"):
        bench.find_servers(Namespace(evenkeel=sys.executable, peers="mosek", before=None))


def test_every_peer_has_its_settings_written_down() -> None:
    readme = (Path(bench.__file__).parent / "README.md").read_text().lower()
    for peer in peers(Path()):
        assert "1 worker" in peer.settings and f"| {peer.name}" in readme


def test_another_checkout_is_measured_under_the_name_before(tmp_path: Path) -> None:
    program = tmp_path / ".venv" / "bin" / "evenkeel"
    program.parent.mkdir(parents=True)
    program.touch()
    servers, _ = bench.find_servers(Namespace(evenkeel=sys.executable, peers="", before=str(tmp_path)))
    assert servers[-1].name == "before"
