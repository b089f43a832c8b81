"""From any text to counters to a verdict: it ends in a value or in BadMetrics, in bounded time, and quotes nothing."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.sidecar.rollout import metrics_text, replay, scrape
from evenkeel.sidecar.rollout.counters import Key, Scrape
from evenkeel.sidecar.rollout.judge_errors import BadMetrics
from evenkeel.sidecar.rollout.metrics_text import LABELS_MAX, LINE_CHARS_MAX, LINES_MAX, SAMPLES_MAX
from evenkeel.sidecar.rollout.rollout import Rollout
from evenkeel.sidecar.rollout.rule import Arm, Rule

CANDIDATE, BASELINE = Key(Arm.CANDIDATE, "c"), Key(Arm.BASELINE, "b")
REQUESTS = "evenkeel_requests_total"
BUCKET = "evenkeel_request_seconds_bucket"
SECRET = "ASIAVERYSECRET"


def read(text: str, key: Key = CANDIDATE) -> Scrape:
    return scrape.build(scrape.from_text(text), key, 0.0)


def buckets(*pairs: tuple[str, object], labels: str = "") -> str:
    return "".join(f'{BUCKET}{{{labels}le="{le}"}} {n}\n' for le, n in pairs)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (buckets(("nan", 1), ("0.1", 1), ("+Inf", 1)), "without a readable edge"),
        (buckets(("-Inf", 1), ("+Inf", 1)), "without a readable edge"),
        (buckets(("-0.5", 1), ("+Inf", 1)), "without a readable edge"),
        (buckets(("0", 1), ("+Inf", 1)), "without a readable edge"),
        (buckets(("1_0", 1), ("+Inf", 1)), "without a readable edge"),
        (buckets(("٣", 1), ("+Inf", 1)), "without a readable edge"),
        (buckets((SECRET, 1), ("+Inf", 1)), "without a readable edge"),
        (f"{BUCKET} 1\n", "without a readable edge"),
        (buckets(("0.1", 1)), "has no infinite edge"),
        (buckets(("0.1", 5), ("0.2", 4), ("+Inf", 9)), "falls from one edge to the next"),
        (buckets(("0.1", 5), ("+Inf", 4)), "falls from one edge to the next"),
        (buckets(("0.1", 1), ("0.10", 1), ("+Inf", 1)), "has an edge twice"),
        (buckets(("+Inf", 1), ("+Inf", 1)), "has a series twice"),
        (buckets(("0.1", "NaN"), ("+Inf", 1)), "which no counter can be"),
        (f'{REQUESTS}{{code="200"}} 1\n' * 2, "has a series twice"),
        (f'{REQUESTS}{{code="{SECRET}"}} 1\n', "whose code is no HTTP status"),
        (f'{REQUESTS}{{code="2000"}} 1\n', "whose code is no HTTP status"),
        (f"{REQUESTS} 1\n", "whose code is no HTTP status"),
        (f'{REQUESTS}{{code="200"}} -0.5\n', "which no counter can be"),
        (f'{REQUESTS}{{code="200"}} +Inf\n', "which no counter can be"),
        (f'{REQUESTS}{{code="200"}} 9007199254740993000\n', "which no counter can be"),
        (f'{REQUESTS}{{code="200"}} {"9" * 4000}\n', "line 1 has no value"),
        (f'{REQUESTS}{{code="200"}} 1_0\n', "line 1 has no value"),
        (f'{REQUESTS}{{code="200"}} ٣\n', "line 1 has no value"),
        (f'{REQUESTS}{{code="200"}} {SECRET}\n', "line 1 has no value"),
        (f'{REQUESTS}{{code="200"}} 1 2 3\n', "line 1 has no value"),
        (f'{REQUESTS}{{code="200"}} 1 soon\n', "line 1 has no value"),
        (f'# ok\n\n{REQUESTS}{{code="200"}}\n', "line 3 has no value"),
        (f'{REQUESTS}{{code="200",code="500"}} 1\n', "a label twice"),
        (f'{REQUESTS}{{code=200}} 1\n', "a label that cannot be read"),
        (f'{REQUESTS}{{code="200" 1\n', "labels without an end"),
        (REQUESTS + "{" + ",".join(f'l{i}=""' for i in range(LABELS_MAX + 1)) + "} 1\n", f"more than {LABELS_MAX} labels"),
        ("#" * (LINE_CHARS_MAX + 1), f"line 1 has more than {LINE_CHARS_MAX} characters"),
        ("\n" * (LINES_MAX + 1), f"more than {LINES_MAX} lines"),
        ("evenkeel_ready 1\n" * (SAMPLES_MAX + 1), f"more than {SAMPLES_MAX} samples"),
        ("evenkeel_ready 0.5\n", "neither 0 nor 1"),
        ("evenkeel_ready NaN\n", "neither 0 nor 1"),
        ('evenkeel_state{state="READY"} inf\n', "which no counter can be"),
        ("{} 1\n", "line 1 is neither a sample nor a comment"),
        (f"<html>{SECRET}", "line 1 is neither a sample nor a comment"),
        ("", "no evenkeel metrics"),
    ],
)  # fmt: skip
def test_what_no_process_of_ours_could_say_is_refused_in_our_own_words(text: str, words: str) -> None:
    with pytest.raises(BadMetrics) as e:
        read(text)
    assert words in e.value.message and SECRET not in e.value.message and len(e.value.message) < 200


def test_edges_may_come_in_any_order_and_series_need_not_have_the_same() -> None:
    text = buckets(("+Inf", 9), ("0.2", 7), ("0.1", 5), labels='version="1",') + buckets(
        ("0.15", 1), ("+Inf", 2), labels='version="2",'
    )
    assert read(text).seconds == ((0.1, 5), (0.15, 6), (0.2, 8), (float("inf"), 11))


def test_labels_may_hold_what_the_format_allows() -> None:
    text = REQUESTS + '{ path = "a\\\\b\\"}{,=\\n" , code="200" ,} 7 1700000000000\r\n'
    assert read(text).codes == {"200": 7}
    (sample,) = metrics_text.samples(text, [REQUESTS])
    assert sample.labels["path"] == 'a\\b"}{,=\n'


def test_a_state_that_nobody_knows_is_passed_over_for_it_would_be_shown() -> None:
    assert read('evenkeel_state{state="<img src=x>"} 1\nevenkeel_state{state="ready"} 2\n').state == "READY"
    assert read('evenkeel_state{state="<img src=x>"} 1\n').state == ""


def test_sixteen_megabytes_are_refused_long_before_they_are_read() -> None:
    with pytest.raises(BadMetrics):
        read('a{b="c",d="e"} 1\n' * 900_000)
    with pytest.raises(BadMetrics):
        read((REQUESTS + "{" + 'a="' + "\\\\" * 2000 + '"} 1\n') * 3000)
    with pytest.raises(BadMetrics):
        read((REQUESTS + "}" * 4000 + " 1\n") * 3000 + REQUESTS + "{" * 4000)


# ---- properties ----------------------------------------------------------------------------------------------------------

NUMBERS = st.sampled_from(["0", "1", "7", "1e3", "-1", "nan", "+Inf", "1e308", "0.5", "9007199254740992", "99999999", "x", ""])
EDGES = st.sampled_from(["0.016", "0.1", "0.10", "1", "+Inf", "inf", "nan", "-Inf", "0", "1e-320", "1e308", "soon", ""])
CODES = st.sampled_from(["200", "404", "429", "500", "503", "999", "2000", "", "<b>"])
LINES = st.one_of(
    st.builds('evenkeel_requests_total{{code="{}"}} {}'.format, CODES, NUMBERS),
    st.builds('evenkeel_request_seconds_bucket{{le="{}"}} {}'.format, EDGES, NUMBERS),
    st.builds(
        'evenkeel_restarts_total{{process="engine",reason="{}"}} {}'.format, st.sampled_from(["died", "oom", "golden"]), NUMBERS
    ),
    st.builds("evenkeel_shed_total {}".format, NUMBERS),
    st.builds("evenkeel_ready {}".format, NUMBERS),
    st.builds('evenkeel_state{{state="{}"}} {}'.format, st.sampled_from(["ready", "FAILED", "closed", "new", "odd"]), NUMBERS),
    st.text(max_size=40),
)
PAGES = st.one_of(
    st.lists(LINES, max_size=12).map("\n".join), st.binary(max_size=200).map(lambda b: b.decode("utf-8", "replace"))
)


def whole(counts: list[int], slow: list[int]) -> str:
    """A page as an instance of ours gives it."""
    total = sum(counts)
    lines = [f'{REQUESTS}{{code="{code}"}} {n}' for code, n in zip(("200", "400", "500"), counts, strict=True)]
    edges = [(le, min(n, total)) for le, n in zip(("0.1", "1.0"), sorted(slow), strict=True)]
    return "\n".join(lines) + "\n" + buckets(*edges, ("+Inf", total)) + "evenkeel_ready 1\n"


COUNTS = st.integers(0, 2 * 10**8)
HONEST = st.builds(whole, st.lists(COUNTS, min_size=3, max_size=3), st.lists(COUNTS, min_size=2, max_size=2))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.one_of(PAGES, HONEST), st.one_of(PAGES, HONEST)), min_size=1, max_size=6))
def test_any_pages_of_both_arms_end_in_a_verdict(rounds: list[tuple[str, str]]) -> None:
    rule = Rule(rollout="r", stage_s_min=0.0, requests_min=0, edge_requests_min=1)
    rollout = Rollout(rule)
    for turn, pages in enumerate(rounds):
        scrapes, missing = [], []
        for key, page in zip((CANDIDATE, BASELINE), pages, strict=True):
            try:
                scrapes.append(scrape.build(scrape.from_text(page), key, 10.0 * turn))
            except BadMetrics as e:
                missing.append(key)
                assert e.message
        rollout.observe(10.0 * turn, scrapes, missing)
        record = rollout.decision().to_json()
        assert record["decision"] in ("promote", "hold", "rollback")
        replay.line(record)  # which is JSON: nothing infinite, nothing that is no number
    assert replay.read(rollout.log()).agrees
    again = Rollout.resumed(rule, rollout.windows, rollout.memory())
    assert again.decision().to_json() == record and json.dumps(rollout.memory().head, allow_nan=False)


@settings(max_examples=300, deadline=None)
@given(st.one_of(PAGES, st.binary(max_size=2000).map(lambda b: b.decode("utf-8", "replace")), st.text(max_size=500)))
def test_any_text_is_read_or_refused_without_being_quoted(text: str) -> None:
    with suppress(BadMetrics):
        found = read(text)
        assert all(n >= 0 for n in found.codes.values()) and list(found.seconds) == sorted(found.seconds)
