"""The bars of the overload and soak benchmarks: met by what is good, missed by what is not."""

from __future__ import annotations

from benchmarks.load import Failure, Interval, Tally
from benchmarks.overload import CALM, SURGE, Bar, Phase, bars, recovery_s
from benchmarks.soak import Alarms
from benchmarks.soak import bars as soak_bars

CALM_SERIES = [(20, 0, 0.02)] * 50


def phase(times: float, right: int, series: list[tuple[int, int, float]] | None = None, refusal_s: float = 0.001) -> Phase:
    interval = Interval(f"{times:g}", 0.0, 10.0, right=right, refusal_s={"p50": 0.001, "p999": refusal_s, "max": refusal_s})
    interval.series = series or CALM_SERIES
    return Phase(times, interval, ping_s=(0.001,) * 1000, memory_mb=100.0)


def missed(phases: list[Phase], tally: Tally, pings_not_200: int = 0) -> list[str]:
    found: list[Bar] = bars(phases, tally, pings_not_200)
    return [b.what for b in found if not b.met]


def test_a_server_that_holds_its_goodput_meets_every_bar() -> None:
    good = [phase(CALM, 1000), phase(1.0, 2000), phase(SURGE, 1900), phase(CALM, 1000)]
    assert missed(good, Tally(refused={"429 overloaded": 50_000})) == []


def test_each_bar_is_missed_by_its_own_fault() -> None:
    calm, full = phase(CALM, 1000), phase(1.0, 2000)
    late = [(20, 0, 0.8)] * 25 + [(20, 0, 0.02)] * 25
    assert missed([calm, full, phase(SURGE, 1700), calm], Tally()) == ["goodput at 10 × capacity"]
    assert missed([calm, full, phase(SURGE, 2000, refusal_s=0.06), calm], Tally()) == ["refusals come within"]
    assert missed([calm, full, phase(SURGE, 2000), phase(CALM, 1000, late)], Tally()) == ["back to normal after the surge"]
    surge = [calm, full, phase(SURGE, 2000), calm]
    assert missed(surge, Tally(refused={"503 not_ready": 1})) == ["every refusal is a 429"]
    assert missed(surge, Tally(failures=[Failure("504 deadline_exceeded", 0, 0, 1)])) == ["every refusal is a 429"]
    assert missed(surge, Tally(), pings_not_200=1) == ["/ping in the surge, p99.9"]


def test_it_is_normal_again_after_the_last_refusal_and_the_last_late_answer() -> None:
    before = Interval("0.5", 0.0, series=CALM_SERIES)
    assert recovery_s(before, Interval("0.5", 0.0, series=CALM_SERIES)) == 0.0
    assert recovery_s(before, Interval("0.5", 0.0, series=[(5, 1, 0.02), *CALM_SERIES])) == 0.1
    assert recovery_s(before, Interval("0.5", 0.0, series=[(5, 0, 0.02)] * 9 + [(5, 0, 0.5)] + CALM_SERIES)) == 1.0


def test_any_alarm_in_a_soak_is_one_too_many() -> None:
    quiet = Alarms(0, (), (), 0)
    assert all(b.met for b in soak_bars([], Tally(refused={"429 overloaded": 9}), quiet))
    for loud in (Alarms(1, (), (), 0), Alarms(0, ("engine 0 READY → NEW",), (), 0), Alarms(0, (), ("stuck: 1",), 0),
                 Alarms(0, (), (), 1)):  # fmt: skip
        assert [b.what for b in soak_bars([], Tally(), loud) if not b.met] == ["false alarms"]
    assert [b.what for b in soak_bars(["threads of front"], Tally(), quiet) if not b.met] == [
        "memory, descriptors, threads, latency"
    ]
