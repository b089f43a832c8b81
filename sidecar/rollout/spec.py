"""What is to be judged and how: the arms, the split, the options. From the command line or from a JSON body. Pure.

The defaults of both are those of `RolloutSpec`; a JSON body uses the words of the command's options, with _ for -.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

from evenkeel.sidecar.rollout import own_metrics, slo_text, spec_conflicts
from evenkeel.sidecar.rollout.judge_errors import BadRule
from evenkeel.sidecar.rollout.own_metrics import OwnMetric
from evenkeel.sidecar.rollout.rule import EDGES_MAX, Arm, Rule

UNCHECKED = "unchecked"  # a split that nobody knows
URLS_MAX = 48  # over all arms: each is asked once a window
URL_CHARS_MAX = 512
NAME_CHARS_MAX = 128
WINDOWS_MAX = 2000  # what a look costs grows with the windows before it: 1 s of CPU at so many
DELTAS_MAX = 60_000  # instances times windows: what is kept in memory and in the replay log, about 30 MB
STAGES_MAX = 100
UNANSWERED_SHARE = 0.05  # of alpha
STRATA_SHARE = 0.1  # of alpha, where a label was asked for
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,79}", re.ASCII)
SECONDS_MAX = 3600.0
MINUTES_MAX = 14 * 1440.0

Split = Mapping[Arm, float]


@dataclass(frozen=True, slots=True)
class RolloutSpec:
    """One rollout as it was asked for. `split` None: even between baseline and candidate."""

    candidate: tuple[str, ...] = ()
    baseline: tuple[str, ...] = ()
    production: tuple[str, ...] = ()
    id: str = ""
    model: str = ""
    split: Split | None = None
    split_checked: bool = True
    window_s: float = 10.0
    block_s: float = 30.0
    min_minutes: float = 10.0
    max_minutes: float = 30.0
    ready_minutes: float = 10.0
    min_requests: int = 1000
    budget: float = 0.001
    latency_budget: float = 0.002
    margin: float | None = None  # 1.2; 1.25 without a baseline
    bad_ratio: float = 2.0
    edge: tuple[float, ...] = ()
    objective_s: float = 0.0
    slo: str = ""  # errors=1%,p99=300ms
    strata: str = ""  # a label; the requests of each of its values are judged apart
    metric: tuple[str, ...] = ()  # the user's own, as own_metrics.py reads them
    initial_delay_s: float = 0.0
    warm_up_s: float = 300.0
    no_latency: bool = False
    at_end: str = "hold"

    def rule(self) -> Rule:
        """Raises BadRule."""
        reference = Arm.BASELINE if self.baseline else Arm.PRODUCTION
        rule = Rule(
            rollout=self.id,
            reference=reference,
            margin=self.margin or (1.2 if reference == Arm.BASELINE else 1.25),
            bad_ratio=self.bad_ratio,
            budget=self.budget,
            budget_latency=self.latency_budget,
            block_s=self.block_s,
            requests_min=self.min_requests,
            stage_s_min=self.min_minutes * 60,
            max_s=self.max_minutes * 60,
            ready_s_max=self.ready_minutes * 60,
            at_end=self.at_end,
            latency=not self.no_latency,
            edges=tuple(sorted(set(self.edge))),
            objective_s=self.objective_s,
            slo=slo_text.read(self.slo),
            initial_delay_s=self.initial_delay_s,
            mix_checked=self.split_checked,
            own=self.own,
            strata=self.label,
            strata_share=STRATA_SHARE if self.strata else 0.0,
            unanswered_share=UNANSWERED_SHARE,
            warm_s_max=self.warm_up_s,
        )
        asked = {"edge": self.edge, "objective_s": self.objective_s, "slo": any(o.edge_s for o in rule.slo)}
        spec_conflicts.check(rule, self.window_s, [name for name, given in asked.items() if given])
        if self.arms():
            check_split(self.split or {}, self.arms())
        return rule

    def arms(self) -> dict[Arm, tuple[str, ...]]:
        """The names of each arm that has any."""
        by_arm = {Arm.PRODUCTION: self.production, Arm.BASELINE: self.baseline, Arm.CANDIDATE: self.candidate}
        return {arm: names for arm, names in by_arm.items() if names}

    @property
    def label(self) -> str:
        """By whose values the arms' mixes are compared: the models, where nothing else was asked for."""
        return self.strata or "model"

    @property
    def own(self) -> tuple[OwnMetric, ...]:
        """Raises BadRule."""
        return own_metrics.read(self.metric)

    @property
    def timeout_s(self) -> float:
        """How long one instance may take to answer one try."""
        return max(0.5, min(5.0, self.window_s / 3))

    def to_json(self) -> dict[str, Any]:
        """The JSON body that asks for the same."""
        body = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("split", "split_checked", "margin")}
        body |= {name: list(value) for name, value in body.items() if isinstance(value, tuple)}
        if not self.split_checked:
            body["split"] = UNCHECKED
        elif self.split is not None:
            body["split"] = {arm.value: weight for arm, weight in self.split.items()}
        return body if self.margin is None else {**body, "margin": self.margin}


# ---- from JSON -----------------------------------------------------------------------------------------------------------


def from_json(data: object, id_else: str) -> RolloutSpec:
    """Raises BadRule that names the key."""
    if not isinstance(data, dict):
        raise BadRule('expected a JSON object such as {"baseline": ["http://host:8080"], "candidate": ["http://host:8080"]}')
    unknown = sorted(set(data) - set(READERS))
    if unknown:
        raise BadRule(f"unknown key {unknown[0][:40]!r}: there are {', '.join(READERS)}")
    read: dict[str, Any] = {name: READERS[name](name, value) for name, value in data.items()}
    if read.get("split") == UNCHECKED:
        read |= {"split": None, "split_checked": False}
    order = RolloutSpec(**{**read, "id": read.get("id") or id_else})
    _check(order)
    return order


NUMBERS = ("window_s", "block_s", "min_minutes", "max_minutes", "ready_minutes", "min_requests", "budget", "latency_budget",
           "bad_ratio", "objective_s", "slo", "strata", "initial_delay_s", "warm_up_s")  # fmt: skip


def check_numbers(order: RolloutSpec) -> None:
    """Of an order from the command line, as those from JSON are checked. Raises BadRule."""
    for name in NUMBERS:
        READERS[name](name, getattr(order, name))
    READERS["edge"]("edge", list(order.edge))
    READERS["metric"]("metric", list(order.metric))
    if order.margin is not None:
        READERS["margin"]("margin", order.margin)


def _check(order: RolloutSpec) -> None:
    """What no key shows alone. Raises BadRule."""
    if not order.candidate or not (order.baseline or order.production):
        raise BadRule("name at least one instance as `candidate` and one as `baseline` or `production`")
    arms = order.arms()
    instances = sum(map(len, arms.values()))
    if instances > URLS_MAX:
        raise BadRule(f"{instances} instances are named; at most {URLS_MAX} can be followed")
    windows = order.max_minutes * 60 / order.window_s
    if windows > WINDOWS_MAX or instances * windows > DELTAS_MAX:
        raise BadRule(
            f"{instances} instances every {order.window_s:g} s for {order.max_minutes:g} min are too many looks: at most "
            f"{WINDOWS_MAX}, {DELTAS_MAX} over all instances; make window_s longer or max_minutes shorter"
        )
    order.rule()


def check_split(split: Split, arms: Mapping[Arm, object]) -> None:
    """Raises BadRule when it names an arm that is not there, or not the candidate and another one."""
    strangers = [arm.value for arm in split if arm not in arms]
    if strangers:
        raise BadRule(f"split: {strangers[0]} has no instances")
    if split and (Arm.CANDIDATE not in split or len(split) < 2):
        raise BadRule("split: name the candidate and at least one other arm")


def split_from_json(name: str, value: object) -> Split | str:
    if value == UNCHECKED:
        return UNCHECKED
    if not isinstance(value, dict) or not value:
        raise BadRule(f'{name}: expected weights such as {{"baseline": 1, "candidate": 1}}, or "{UNCHECKED}"')
    arms = {arm.value: arm for arm in Arm}
    strange = sorted(set(value) - set(arms))
    if strange:
        raise BadRule(f"{name}: {strange[0][:40]!r} is no arm: there are {', '.join(arms)}")
    return {arms[arm]: _number(1e-6, 1e6)(f"{name}.{arm}", weight) for arm, weight in value.items()}


Reader = Callable[[str, object], Any]


def _urls(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(url, str) for url in value):
        raise BadRule(f"{name}: expected a list of addresses such as http://host:8080")
    return tuple(_url(name, url) for url in value)


def _url(name: str, url: str) -> str:
    if not 0 < len(url) <= URL_CHARS_MAX:
        raise BadRule(f"{name}: an address has 1 to {URL_CHARS_MAX} characters, this one has {len(url)}")
    if not all("!" <= c <= "~" for c in url):
        raise BadRule(f"{name}: {url[:80]!r}: only printable ASCII without spaces; percent-encode the rest")
    return url


def _number(low: float, high: float) -> Reader:
    def read(name: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or not low <= value <= high:
            raise BadRule(f"{name}: expected a number from {low:g} to {high:g}, not {str(value)[:40]}")
        return float(value)

    return read


def _whole(low: int, high: int) -> Reader:
    def read(name: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise BadRule(f"{name}: expected a whole number from {low} to {high}, not {str(value)[:40]}")
        return value

    return read


def _numbers(count_max: int, low: float, high: float) -> Reader:
    def read(name: str, value: object) -> tuple[float, ...]:
        if not isinstance(value, list) or len(value) > count_max:
            raise BadRule(f"{name}: expected a list of at most {count_max} numbers")
        return tuple(_number(low, high)(name, number) for number in value)

    return read


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise BadRule(f"{name}: expected true or false, not {str(value)[:40]}")
    return value


def _name(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > NAME_CHARS_MAX or not value.isprintable():
        raise BadRule(f"{name}: expected at most {NAME_CHARS_MAX} printable characters")
    return value


def _slo(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise BadRule(f"{name}: expected a text such as errors=1%,p99=300ms")
    slo_text.read(value)
    return value


def _label(name: str, value: object) -> str:
    if not isinstance(value, str) or (value and not LABEL.fullmatch(value)) or value in ("le", "code"):
        raise BadRule(f"{name}: {str(value)[:40]!r}: expected a label of the requests such as route")
    return value


def _metric(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise BadRule(f"{name}: expected a list of texts such as refunds=shop_refunds_total/shop_orders_total")
    own_metrics.read(value)
    return tuple(value)


def _one_of(*words: str) -> Reader:
    def read(name: str, value: object) -> str:
        if value not in words:
            raise BadRule(f"{name}: expected {' or '.join(words)}, not {str(value)[:40]}")
        return str(value)

    return read


READERS: dict[str, Reader] = {
    "candidate": _urls, "baseline": _urls, "production": _urls, "id": _name, "model": _name, "split": split_from_json,
    "window_s": _number(0.5, 600), "block_s": _number(0.5, SECONDS_MAX), "min_minutes": _number(0, MINUTES_MAX),
    "max_minutes": _number(0.01, MINUTES_MAX), "ready_minutes": _number(0.01, MINUTES_MAX),
    "min_requests": _whole(0, 10**9), "budget": _number(0, 1),
    "latency_budget": _number(0, 1), "margin": _number(1, 1000), "bad_ratio": _number(1, 1000),
    "slo": _slo, "strata": _label, "metric": _metric,
    "initial_delay_s": _number(0, SECONDS_MAX), "warm_up_s": _number(0, SECONDS_MAX),
    "edge": _numbers(EDGES_MAX, 1e-6, SECONDS_MAX), "objective_s": _number(0, SECONDS_MAX), "no_latency": _flag,
    "at_end": _one_of("hold", "rollback"),
}  # fmt: skip
