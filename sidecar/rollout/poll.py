"""Where scrapes come from: the instances' own /metrics, or a Prometheus server that has scraped them.

A source is asked for one round at a time. What cannot be read in time, after a second try, is missing: never a zero.
"""

from __future__ import annotations

import io
import json
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
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
TLS = ssl.create_default_context()
# Text is read by one thread at a time: reading is Python's own work, and more threads would only take turns with, and hold up,
# whatever else this process does.
_reading = threading.Lock()


@dataclass(frozen=True, slots=True)
class Round:
    scrapes: tuple[Scrape, ...]
    missing: Mapping[Key, str]  # with the reason
    unreachable: frozenset[Key] = frozenset()  # of those: nobody answered there, which may only mean that it starts


class Source(Protocol):
    def look(self, now_s: float) -> Round: ...


class Unreachable(CannotJudge):
    code = "unreachable"


class _UntilRaw(io.RawIOBase):
    """What is read of an answer, head and body, by one deadline: a time-out for each read alone never ends for an instance
    that sends a byte now and then."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, until_s: float) -> None:
        self._raw, self._sock, self._until_s = raw, sock, until_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("no whole answer in time")
        self._sock.settimeout(left_s)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _answer_until(until_s: float) -> Callable[..., HTTPResponse]:
    def answer(sock: socket.socket, *args: Any, **kwargs: Any) -> HTTPResponse:
        found = HTTPResponse(sock, *args, **kwargs)
        found.fp = io.BufferedReader(_UntilRaw(found.fp.detach(), sock, until_s))
        return found

    return answer


def _opener(until_s: float) -> urllib.request.OpenerDirector:
    """As urlopen's own, but for the deadline."""

    def connection(kind: type[HTTPConnection]) -> Callable[..., HTTPConnection]:
        def connect(*args: Any, **kwargs: Any) -> HTTPConnection:
            made = kind(*args, **kwargs)
            made.response_class = _answer_until(until_s)  # type: ignore[assignment]
            return made

        return connect

    class Http(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> HTTPResponse:
            return self.do_open(connection(HTTPConnection), req)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> HTTPResponse:
            return self.do_open(connection(HTTPSConnection), req, context=TLS)

    return urllib.request.build_opener(Http, Https)


def fetch(url: str, timeout_s: float, bytes_max: int = BODY_BYTES_MAX) -> str:
    """The body of a 200. Raises Unreachable, also for one that comes too slowly or is too long."""
    until_s = time.monotonic() + timeout_s
    body = bytearray()
    try:
        with _opener(until_s).open(url, timeout=timeout_s) as answer:
            while (chunk := answer.read1(CHUNK_BYTES)) and len(body) <= bytes_max:
                body += chunk
    except TimeoutError as e:
        raise Unreachable(f"{url}: no whole answer in {timeout_s:g} s") from e
    except (OSError, HTTPException, ValueError) as e:
        # A URLError wraps what happened; an HTTPError is one too, but its text holds the status.
        why = e.reason if isinstance(e, URLError) and not isinstance(e, HTTPError) else e
        raise Unreachable(f"{url}: {why or type(e).__name__}") from e
    if len(body) > bytes_max:
        raise Unreachable(f"{url}: the answer is longer than {bytes_max} bytes")
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
    try:
        parts = urllib.parse.urlsplit(whole)
        host, _ = parts.hostname, parts.port
    except ValueError as e:
        raise CannotJudge(f"{url}: not an HTTP address: {e}") from e
    if parts.scheme not in ("http", "https") or not host:
        raise CannotJudge(f"{url}: not an HTTP address")
    if parts.username is not None:
        raise CannotJudge("an address with a user name or password in it would be shown to whoever reads the decision")
    return whole if parts.path not in ("", "/") else urllib.parse.urlunsplit(parts._replace(path="/metrics"))


@dataclass(frozen=True, slots=True)
class Direct:
    """Asks every instance itself, all at about the same moment."""

    urls: Mapping[Key, str]
    timeout_s: float
    model: str = ""
    bytes_max: int = BODY_BYTES_MAX

    def look(self, now_s: float) -> Round:
        with ThreadPoolExecutor(min(AT_ONCE_MAX, len(self.urls))) as pool:
            answers = list(pool.map(lambda item: self._one(item[0], item[1], now_s), self.urls.items()))
        failed = {key: answer for key, answer in zip(self.urls, answers, strict=True) if isinstance(answer, CannotJudge)}
        unreachable = frozenset(key for key, e in failed.items() if isinstance(e, Unreachable))
        scrapes = tuple(a for a in answers if isinstance(a, Scrape))
        return Round(scrapes, {key: e.message for key, e in failed.items()}, unreachable)

    def _one(self, key: Key, url: str, now_s: float) -> Scrape | CannotJudge:
        try:
            text = twice(lambda: fetch(url, self.timeout_s, self.bytes_max))
            with _reading:
                return scrape.build(scrape.from_text(text), key, now_s, self.model)
        except BadMetrics as e:
            return BadMetrics(f"{url}: {e.message}")
        except Unreachable as e:
            return e


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
