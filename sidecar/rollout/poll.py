"""Where scrapes come from: the instances' own /metrics, or a Prometheus server that has scraped them.

A source is asked for one round at a time. What cannot be read in time, after a second try, is missing: never a zero.
"""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, Protocol
from urllib.error import HTTPError, URLError

from sidecar.rollout import scrape
from sidecar.rollout.counters import Key, Scrape
from sidecar.rollout.rule import Arm
from sidecar.rollout.scrape import Sample
from sidecar.rollout.trouble import BadMetrics, CannotJudge

BODY_BYTES_MAX = 16 << 20
CHUNK_BYTES = 1 << 16
AT_ONCE_MAX = 16
TRIES = 2


@dataclass(frozen=True, slots=True)
class Round:
    scrapes: tuple[Scrape, ...]
    missing: Mapping[Key, str]  # with the reason


class Source(Protocol):
    def look(self, now_s: float) -> Round: ...


class Unreachable(CannotJudge):
    code = "unreachable"


def fetch(url: str, timeout_s: float) -> str:
    """The body of a 200. Raises Unreachable, also for one that comes too slowly or is too long."""
    until_s = time.monotonic() + timeout_s
    body = bytearray()
    try:
        # The time-out is for each read alone; the deadline is for all of them.
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            while (chunk := answer.read1(CHUNK_BYTES)) and len(body) <= BODY_BYTES_MAX:
                body += chunk
                if time.monotonic() > until_s:
                    raise TimeoutError(f"no whole answer in {timeout_s:g} s")
    except (OSError, HTTPException, ValueError) as e:
        # A URLError wraps what happened; an HTTPError is one too, but its text holds the status.
        why = e.reason if isinstance(e, URLError) and not isinstance(e, HTTPError) else e
        raise Unreachable(f"{url}: {why or type(e).__name__}") from e
    if len(body) > BODY_BYTES_MAX:
        raise Unreachable(f"{url}: the answer is longer than {BODY_BYTES_MAX} bytes")
    return body.decode("utf-8", "replace")


def twice(fetch_once: Callable[[], str]) -> str:
    for _ in range(TRIES - 1):
        try:
            return fetch_once()
        except Unreachable:
            pass  # one lost connection is no gap; the last try's error is told
    return fetch_once()


def metrics_url(url: str) -> str:
    """`host:port` and `http://host:port` mean their /metrics."""
    whole = url if "://" in url else f"http://{url}"
    parts = urllib.parse.urlsplit(whole)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise CannotJudge(f"{url}: not an HTTP address")
    return whole if parts.path not in ("", "/") else urllib.parse.urlunsplit(parts._replace(path="/metrics"))


@dataclass(frozen=True, slots=True)
class Direct:
    """Asks every instance itself, all at about the same moment."""

    urls: Mapping[Key, str]
    timeout_s: float
    model: str = ""

    def look(self, now_s: float) -> Round:
        with ThreadPoolExecutor(min(AT_ONCE_MAX, len(self.urls))) as pool:
            answers = list(pool.map(lambda item: self._one(item[0], item[1], now_s), self.urls.items()))
        missing = {key: answer for key, answer in zip(self.urls, answers, strict=True) if isinstance(answer, str)}
        return Round(tuple(a for a in answers if isinstance(a, Scrape)), missing)

    def _one(self, key: Key, url: str, now_s: float) -> Scrape | str:
        try:
            text = twice(lambda: fetch(url, self.timeout_s))
            return scrape.build(scrape.from_text(text), key, now_s, self.model)
        except BadMetrics as e:
            return f"{url}: {e.message}"
        except Unreachable as e:
            return e.message


def targets(urls: Mapping[Arm, Sequence[str]]) -> dict[Key, str]:
    """Each instance is named by its host and port."""
    found: dict[Key, str] = {}
    for arm, addresses in urls.items():
        for address in addresses:
            url = metrics_url(address)
            found[Key(arm, urllib.parse.urlsplit(url).netloc)] = url
    if len(found) < sum(map(len, urls.values())):
        raise CannotJudge("the same instance is named twice")
    if len(set(found.values())) < len(found):
        raise CannotJudge("the same instance is named in two arms")
    return found


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
    _seen_s: dict[Key, float] = field(default_factory=dict)

    def look(self, now_s: float) -> Round:
        scrapes: list[Scrape] = []
        missing: dict[Key, str] = {}
        for arm, selector in self.selectors.items():
            self._look_at(arm, selector, now_s, scrapes, missing)
        return Round(tuple(scrapes), missing)

    def _look_at(self, arm: Arm, selector: str, now_s: float, scrapes: list[Scrape], missing: dict[Key, str]) -> None:
        try:
            samples = self._query(f"{{__name__=~{json.dumps('|'.join(scrape.NAMES))},{selector}}}")
            times = self._query(f"timestamp({scrape.READY}{{{selector}}})")
        except CannotJudge as e:
            missing.update({key: e.message for key in self._seen_s if key.arm == arm} or {Key(arm, selector): e.message})
            return
        fresh = {self._key(arm, s): s.value for s in times}
        for key, at_s in fresh.items():
            if at_s <= self._seen_s.get(key, 0.0):
                missing[key] = f"{key}: no new sample since the last look"
                continue
            self._seen_s[key] = at_s
            try:
                scrapes.append(scrape.build([s for s in samples if self._key(arm, s) == key], key, now_s, self.model))
            except BadMetrics as e:
                missing[key] = f"{key}: {e.message}"
        if not fresh:
            missing[Key(arm, selector)] = f"no instance has {scrape.READY}{{{selector}}}"

    def _key(self, arm: Arm, sample: Sample) -> Key:
        return Key(arm, sample.labels.get(self.instance_label, ""))

    def _query(self, query: str) -> list[Sample]:
        url = f"{self.url.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        text = twice(lambda: fetch(url, self.timeout_s))
        try:
            data: dict[str, Any] = json.loads(text)
            return [_sample(row) for row in data["data"]["result"]]
        except (ValueError, KeyError, TypeError) as e:
            raise BadMetrics(f"{self.url}: not an answer of a Prometheus server") from e


def _sample(row: dict[str, Any]) -> Sample:
    return Sample(row["metric"].get("__name__", ""), row["metric"], float(row["value"][1]))
