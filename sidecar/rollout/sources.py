"""Where scrapes come from: the instances' own /metrics, or a Prometheus server that has scraped them.

A source is asked for one round at a time, and answers within TRIES times its time-out whatever those do whom it asks. What cannot
be read in time, after a second try, is missing: never a zero.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

from evenkeel.sidecar.rollout import own_counters, scrape
from evenkeel.sidecar.rollout.counters import Key, Scrape
from evenkeel.sidecar.rollout.fetch import BODY_BYTES_MAX, Unreachable, checked, fetch, shown
from evenkeel.sidecar.rollout.judge_errors import BadMetrics, CannotJudge
from evenkeel.sidecar.rollout.metrics_text import ParsedSample
from evenkeel.sidecar.rollout.own_metrics import OwnMetric
from evenkeel.sidecar.rollout.rule import Arm

METRICS_BYTES_MAX = 1 << 20  # of an instance's /metrics, which has 32 kB at most
DIRECT_MAX = 256  # instances that are asked, all at once
TRIES = 2
SCRAPE_DIGITS = 1  # a tenth of a second is a hundredth of a window; what is finer is the machine's own haste
INSTANCES_MAX = 1000  # that a Prometheus server may name in one arm
NAME_CHARS_MAX = 256
# Text is read by one thread at a time: reading is Python's own work, and more threads would only take turns with, and hold up,
# whatever else this process does.
_reading = threading.Lock()


@dataclass(frozen=True, slots=True)
class Round:
    scrapes: tuple[Scrape, ...]
    missing: Mapping[Key, str]  # with the reason
    unread: frozenset[Key] = frozenset()  # of those: what they answered cannot be used
    unreachable: frozenset[Key] = frozenset()  # of those: nobody answered there, which may only mean that it starts


class Source(Protocol):
    def look(self, now_s: float) -> Round: ...


def twice(url: str, timeout_s: float, bytes_max: int = BODY_BYTES_MAX) -> str:
    for _ in range(TRIES - 1):
        try:
            return fetch(url, timeout_s, bytes_max)
        except Unreachable:
            pass  # one lost connection is no gap; the last try's error is told
    return fetch(url, timeout_s, bytes_max)


def metrics_url(url: str) -> str:
    """`host:port` and `http://host:port` mean their /metrics. Raises CannotJudge."""
    address = url if "://" in url else f"http://{url}"
    parts = checked(address)
    return address if parts.path not in ("", "/") else parts._replace(path="/metrics").geturl()


@dataclass(frozen=True, slots=True)
class Direct:
    """Asks every instance itself, all at about the same moment."""

    urls: Mapping[Key, str]
    timeout_s: float
    model: str = ""
    bytes_max: int = METRICS_BYTES_MAX
    own: tuple[OwnMetric, ...] = ()
    strata: str = ""

    def look(self, now_s: float) -> Round:
        began_s = time.monotonic()
        until_s = began_s + TRIES * self.timeout_s
        with ThreadPoolExecutor(len(self.urls)) as pool:
            answers = list(pool.map(lambda item: self._one(item[0], item[1], now_s - began_s, until_s), self.urls.items()))
        failed = {key: answer for key, answer in zip(self.urls, answers, strict=True) if isinstance(answer, CannotJudge)}
        unreachable = frozenset(key for key, e in failed.items() if isinstance(e, Unreachable))
        unread = frozenset(key for key, e in failed.items() if isinstance(e, BadMetrics))
        scrapes = tuple(a for a in answers if isinstance(a, Scrape))
        return Round(scrapes, {key: e.message for key, e in failed.items()}, unread, unreachable)

    def _one(self, key: Key, url: str, zero_s: float, until_s: float) -> Scrape | CannotJudge:
        """`zero_s` turns a moment of the machine's clock into the rollout's time."""
        try:
            page = twice(url, self.timeout_s, self.bytes_max)
            at_s = round(zero_s + time.monotonic(), SCRAPE_DIGITS)
            return self._read(page, key, at_s, until_s)
        except BadMetrics as e:
            return BadMetrics(f"{shown(url)}: {e.message}")
        except CannotJudge as e:
            return e

    def _read(self, page: str, key: Key, at_s: float, until_s: float) -> Scrape:
        if not _reading.acquire(timeout=max(0.0, until_s - time.monotonic())):
            raise BadMetrics("the texts of others took all the time there was")
        try:
            return scrape.build(scrape.from_text(page, self.own), key, at_s, self.model, self.own, self.strata)
        finally:
            _reading.release()


def targets(urls: Mapping[Arm, Sequence[str]]) -> dict[Key, str]:
    """Each instance is named by its host and port."""
    by_key: dict[Key, str] = {}
    for arm, addresses in urls.items():
        for address in addresses:
            url = metrics_url(address)
            by_key[Key(arm, urlsplit(url).netloc)] = url
    if len(by_key) < sum(map(len, urls.values())):
        raise CannotJudge("the same instance is named twice")
    if len(set(by_key.values())) < len(by_key):
        raise CannotJudge("the same instance is named in two arms")
    if len(by_key) > DIRECT_MAX:
        raise CannotJudge(f"{len(by_key)} instances are named; at most {DIRECT_MAX} can be asked")
    return by_key


@dataclass(slots=True)
class Prometheus:
    """Asks a Prometheus server for the raw counters; each arm is a label selector.

    Prometheus may repeat a target's last value for five minutes, which would look like "no requests, no errors". So the
    time of each instance's own sample is asked for too, and one that has not moved since the last round is missing.
    """

    url: str
    selectors: Mapping[Arm, str]
    timeout_s: float
    instance_label: str = "instance"
    model: str = ""
    own: tuple[OwnMetric, ...] = ()
    strata: str = ""
    _seen_s: dict[Key, float] = field(default_factory=dict)
    _zero_s: float | None = None  # added to a sample's own time it gives the rollout's time

    def look(self, now_s: float) -> Round:
        scrapes: list[Scrape] = []
        missing: dict[Key, str] = {}
        unread: set[Key] = set()
        with ThreadPoolExecutor(len(self.selectors) * 2) as pool:
            asked = {arm: [pool.submit(self._query, q) for q in self._queries(arm)] for arm in self.selectors}
        for arm, (samples, times) in asked.items():
            try:
                self._take(arm, samples.result(), times.result(), now_s, scrapes, missing, unread)
            except CannotJudge as e:  # the server's trouble, and no instance is gone by it
                keys = [key for key in self._seen_s if key.arm == arm] or [Key(arm, self.selectors[arm])]
                missing.update(dict.fromkeys(keys, e.message))
                unread.update(keys)
        return _without_doubles(scrapes, missing, unread)

    def _queries(self, arm: Arm) -> tuple[str, str]:
        """For the counters, and for the times of the instances' own samples."""
        selector = self.selectors[arm]
        names = "|".join(sorted({*scrape.NAMES, *own_counters.names(self.own)}))
        return f"{{__name__=~{json.dumps(names)},{selector}}}", f"timestamp({scrape.READY}{{{selector}}})"

    def _take(
        self, arm: Arm, samples: Sequence[ParsedSample], times: Sequence[ParsedSample], now_s: float,
        scrapes: list[Scrape], missing: dict[Key, str], unread: set[Key],
    ) -> None:  # fmt: skip
        fresh = {self._key(arm, s): s.value for s in times}
        if len(fresh) > INSTANCES_MAX:
            raise BadMetrics(f"{shown(self.url)}: it names more than {INSTANCES_MAX} instances")
        of: dict[Key, list[ParsedSample]] = {key: [] for key in fresh}
        for sample in samples:
            of.get(self._key(arm, sample), []).append(sample)
        for key, at_s in fresh.items():
            if not isfinite(at_s) or at_s <= 0 or at_s == self._seen_s.get(key):  # clocks may jump either way
                missing[key] = f"{key}: no new sample since the last look"
                continue
            self._seen_s[key] = at_s
            if self._zero_s is None:
                self._zero_s = now_s - at_s
            try:
                at = round(at_s + self._zero_s, SCRAPE_DIGITS)
                scrapes.append(scrape.build(of[key], key, at, self.model, self.own, self.strata))
            except BadMetrics as e:
                missing[key] = f"{key}: {e.message}"
                unread.add(key)
        if not fresh:
            missing[Key(arm, self.selectors[arm])] = f"no instance has {scrape.READY}{{{self.selectors[arm]}}}"

    def _key(self, arm: Arm, sample: ParsedSample) -> Key:
        """The label names the instance wherever it is shown."""
        name = sample.labels.get(self.instance_label, "")
        if len(name) > NAME_CHARS_MAX or not name.isprintable():
            raise BadMetrics(f"{shown(self.url)}: the label {self.instance_label} is no name of an instance")
        return Key(arm, name)

    def _query(self, query: str) -> list[ParsedSample]:
        url = f"{self.url.rstrip('/')}/api/v1/query?{urlencode({'query': query})}"
        page = twice(url, self.timeout_s)
        try:
            data: dict[str, Any] = json.loads(page)
            return [_sample(row) for row in data["data"]["result"]]
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as e:
            raise BadMetrics(f"{shown(self.url)}: not an answer of a Prometheus server") from e


def _without_doubles(scrapes: Sequence[Scrape], missing: Mapping[Key, str], unread: Collection[Key]) -> Round:
    """An instance that two arms' selectors take at once belongs to neither: what it counted cannot be used."""
    arms: dict[str, list[Arm]] = {}
    for s in scrapes:
        arms.setdefault(s.key.name, []).append(s.key.arm)
    doubles = {
        s.key: f"{s.key.name} is in two arms: {' and '.join(arms[s.key.name])}" for s in scrapes if len(arms[s.key.name]) > 1
    }
    kept = tuple(s for s in scrapes if s.key not in doubles)
    return Round(kept, {**missing, **doubles}, frozenset((*unread, *doubles)))


def _sample(row: Any) -> ParsedSample:
    """Raises ValueError, KeyError, TypeError or IndexError."""
    labels, value = row["metric"], float(row["value"][1])
    if not isinstance(labels, dict) or not all(isinstance(v, str) for v in labels.values()):
        raise TypeError("labels are texts")
    return ParsedSample(labels.get("__name__", ""), labels, value)
