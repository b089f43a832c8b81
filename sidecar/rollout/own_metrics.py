"""The user's own metrics: a share of events by any counters, or the share above an edge of any histogram. Pure.

    refunds=shop_refunds_total/shop_orders_total             fewer are better
    orders=shop_orders_total/shop_visits_total;better=more   more are better
    failed=1-shop_done_total/shop_begun_total                the rest of the second is what is counted
    slow=shop_basket_seconds{kind="paid"}>0.5                answers above a bucket edge

Each is judged as errors are, by the same two witnesses. "Better is more" turns the arms round: twice as bad is half as many.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evenkeel.sidecar.rollout.judge_errors import BadRule

OWN_MAX = 8
TEXT_CHARS_MAX = 1000
NAME = re.compile(r"[a-z][a-z0-9_.-]{0,39}", re.ASCII)
SELECTOR = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[^"{}]|"(?:[^"\\]|\\.)*")*)\})?', re.ASCII)
MATCHER = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(!?=)\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)', re.ASCII)
ESCAPE = re.compile(r"\\(.)")
NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]{1,2})?", re.ASCII)
SHOWN = "expected something like refunds=shop_refunds_total/shop_orders_total or slow=shop_basket_seconds>0.5"
TAKEN = re.compile(r"errors|slower_than_.*|unanswered|4xx|far slower", re.ASCII)


@dataclass(frozen=True, slots=True)
class LabelMatch:
    label: str
    value: str
    is_equal: bool = True


@dataclass(frozen=True, slots=True)
class SeriesSelector:
    """All series of a metric whose labels match. A label that is not there is empty."""

    name: str
    labels: tuple[LabelMatch, ...] = ()

    def takes(self, name: str, labels: Mapping[str, str]) -> bool:
        return name == self.name and all((labels.get(m.label, "") == m.value) == m.is_equal for m in self.labels)


@dataclass(frozen=True, slots=True)
class OwnMetric:
    """`events` of `out_of` all; or of one histogram, in `out_of`, what is above `edge`."""

    name: str
    out_of: tuple[SeriesSelector, ...]
    events: tuple[SeriesSelector, ...] = ()
    edge: float = 0.0  # of a histogram, in its unit
    is_rest: bool = False  # what is counted is the rest: all without the events
    more_is_better: bool = False
    weight: float = 0.0  # 0: critical
    budget: float = 0.0
    bad_ratio: float = 2.0

    @property
    def is_critical(self) -> bool:
        return self.weight == 0

    @property
    def series(self) -> frozenset[str]:
        """Names of the samples that it is made of."""
        if self.edge:
            return frozenset(f"{s.name}_bucket" for s in self.out_of)
        return frozenset(s.name for s in (*self.events, *self.out_of))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> OwnMetric:
        return OwnMetric(**{**data, **{key: tuple(map(_selector, data[key])) for key in ("out_of", "events")}})


def _selector(data: Mapping[str, Any]) -> SeriesSelector:
    return SeriesSelector(data["name"], tuple(LabelMatch(**m) for m in data["labels"]))


# ---- as people write them ------------------------------------------------------------------------------------------------


def read(texts: Sequence[str]) -> tuple[OwnMetric, ...]:
    """Raises BadRule that says what is wrong with which."""
    if len(texts) > OWN_MAX:
        raise BadRule(f"metric: at most {OWN_MAX} metrics of your own")
    metrics = tuple(map(_metric, texts))
    names = [m.name for m in metrics]
    doubles = sorted({n for n in names if names.count(n) > 1})
    if doubles:
        raise BadRule(f"metric: {doubles[0]} is given twice")
    if metrics and not any(m.is_critical for m in metrics) and sum(m.weight for m in metrics) <= 0:
        raise BadRule("metric: the weights add up to nothing")
    return metrics


def _metric(text: str) -> OwnMetric:
    if len(text) > TEXT_CHARS_MAX:
        raise BadRule(f"metric: {text[:40]!r}…: at most {TEXT_CHARS_MAX} characters")
    name, _, rest = text.partition("=")
    name = name.strip()
    if not NAME.fullmatch(name):
        raise BadRule(f"metric: {name[:40]!r} is no name (small letters, digits, _ . -): {SHOWN}")
    if TAKEN.fullmatch(name):
        raise BadRule(f"metric: {name} is judged already: take another name")
    share, *options = _parts(rest)
    try:
        metric = _share(name, share.strip())
        return _checked(OwnMetric(**{**_plain(metric), **_options(options)}))
    except BadRule as e:
        raise BadRule(f"metric {name}: {e.message}") from e


def _plain(metric: OwnMetric) -> dict[str, Any]:
    return {name: getattr(metric, name) for name in ("name", "out_of", "events", "edge", "is_rest")}


def _parts(text: str) -> list[str]:
    """At the semicolons that stand in no quotes."""
    return re.findall(r'(?:[^";]|"(?:[^"\\]|\\.)*"?)+', text) or [""]


def _share(name: str, text: str) -> OwnMetric:
    rest = re.match(r"1\s*-\s*", text)
    text = text[rest.end() :] if rest else text
    first, at = _sum(text)
    sign = text[at : at + 1]
    if sign == ">" and len(first) == 1 and not rest:
        edge = text[at + 1 :].strip()
        if not NUMBER.fullmatch(edge) or not float(edge) > 0:
            raise BadRule(f"{edge[:40]!r} is no bucket edge, which is a positive number")
        return OwnMetric(name, first, edge=float(edge))
    if sign != "/":
        raise BadRule(SHOWN)
    whole, end = _sum(text[at + 1 :])
    if text[at + 1 + end :].strip():
        raise BadRule(f"{text[at + 1 + end :].strip()[:40]!r} stands behind it: {SHOWN}")
    return OwnMetric(name, whole, first, is_rest=bool(rest))


def _sum(text: str) -> tuple[tuple[SeriesSelector, ...], int]:
    """Selectors joined by +, and where they end."""
    found, at = [], 0
    while True:
        at += len(text[at:]) - len(text[at:].lstrip())
        match = SELECTOR.match(text, at)
        if match is None:
            raise BadRule(f"{text[at : at + 40]!r} is no series: {SHOWN}")
        found.append(SeriesSelector(match[1], _labels(match[2] or "")))
        at = match.end() + len(text[match.end() :]) - len(text[match.end() :].lstrip())
        if text[at : at + 1] != "+":
            return tuple(found), at
        at += 1


def _labels(text: str) -> tuple[LabelMatch, ...]:
    labels, at = [], 0
    while text[at:].strip():
        match = MATCHER.match(text, at)
        if match is None:
            raise BadRule(f'{text[at:][:40]!r}: expected labels such as {{kind="paid",code!="200"}}')
        value = ESCAPE.sub(lambda m: "\n" if m[1] == "n" else m[1], match[3])
        labels.append(LabelMatch(match[1], value, match[2] == "="))
        at = match.end()
    return tuple(labels)


def _options(parts: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in parts:
        word, _, value = (side.strip() for side in part.partition("="))
        if word == "better" and value in ("more", "less"):
            found["more_is_better"] = value == "more"
        elif word == "critical" and not value:
            found["weight"] = 0.0
        elif word in ("weight", "budget", "bad-ratio"):
            found[word.replace("-", "_")] = _number(word, value)
        else:
            raise BadRule(f"{part.strip()[:40]!r}: expected better=more, critical, weight=2, budget=1% or bad-ratio=1.5")
    return found


def _number(word: str, value: str) -> float:
    percent = value.endswith("%")
    if not NUMBER.fullmatch(value.removesuffix("%")):
        raise BadRule(f"{word}={value[:40]}: expected a number")
    return float(value.removesuffix("%")) / (100 if percent else 1)


def _checked(m: OwnMetric) -> OwnMetric:
    for ok, complaint in (
        (m.weight <= 1000, "a weight is at most 1000"),
        (0 <= m.budget < 1, "a budget is a share below 1"),
        (m.bad_ratio > 1, "bad-ratio must be above 1"),
        (not (m.budget and m.more_is_better), "a budget bounds what is bad: give it with better=less"),
        (not m.events or m.events != m.out_of, "it is divided by itself"),
    ):
        if not ok:
            raise BadRule(complaint)
    return m
