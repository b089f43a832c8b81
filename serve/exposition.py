"""The status page as Prometheus metrics: the one place that knows their names, types and meanings.

Pure reading: a scrape takes no lock, asks no process and waits for nobody, so it is answered while engines load, hang
or die. Counters come from cells that outlive the processes which count in them. FAMILIES is the table in
docs/metrics.md; a test compares the two with what is exposed. Labels are bounded: one model, a fixed set of codes,
reasons, states and phases.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.request_ways import request_ways
from evenkeel.serve.contract.status_page import (
    DEVICE_TEXT,
    PLAN_TEXT,
    ROW_CELLS,
    TIME_CELLS,
    Engine,
    Front,
    Main,
    RolloutCell,
    StatusPage,
    lines_lost,
    places,
    restarts,
    time_edge,
    version_counters,
)
from evenkeel.serve.errors import FAMILIES as ERRORS
from evenkeel.serve.errors import Cancelled

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
# Of the time histograms' cells, those whose edges are shown: from 64 us to 67 s, four an octave. What is faster than
# the first edge is counted there; what is slower than the last only in +Inf.
FIRST_EDGE, LAST_EDGE = 24, 104
ROW_EDGES = 13  # batches of 1, of up to 3, 7, ... 8191 rows; no queue holds more
CODES = tuple(sorted({"200", *(str(e.status) for e in ERRORS)}))
SHED = tuple(sorted({e.shed for e in ERRORS} - {""}))
DEVICE_VALUES = {
    "evenkeel_device_temperature_celsius": "temperature_celsius", "evenkeel_device_utilization_ratio": "utilisation",
    "evenkeel_device_memory_used_bytes": "memory_used_bytes", "evenkeel_device_memory_bytes": "memory_bytes",
    "evenkeel_device_power_watts": "power_watts", "evenkeel_device_xid_errors": "xid_errors",
}  # fmt: skip
DEVICE_TABLES = {
    "evenkeel_device_clock_hertz": "clock_hertz", "evenkeel_device_throttled": "throttled",
    "evenkeel_device_ecc_errors": "ecc_errors",
}  # fmt: skip
PHASES = ("import", "unpack", "load", "device_copy", "compile", "warm", "total")
LABEL_CHARS_MAX = 128  # of a name or version out of a manifest
# A text costs 1.5 ms of a thread that the event loop shares its interpreter with. So many are made anew at once, and then
# one in so long; who asks more often gets the last one again. No scraper does, and no judge.
FRESH_MAX, FRESH_EVERY_S = 20, 0.25


Buckets = list[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class MetricSample:
    """One value of a family. `buckets`: of a histogram, whose value is the sum."""

    name: str
    labels: tuple[str, ...]
    value: float
    buckets: Buckets | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """One metric as the docs show it. `meaning` is its help text too."""

    name: str  # without the ending that a type adds
    kind: Literal["counter", "gauge", "histogram", "info"]
    labels: tuple[str, ...]
    meaning: str

    @property
    def shown(self) -> str:
        """The name as it is queried; a histogram's has _bucket, _sum and _count behind it."""
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")

    @property
    def type(self) -> str:
        """As scrapers see it: in the plain format an info is a gauge."""
        return "gauge" if self.kind == "info" else self.kind

    def metric(self, samples: Iterable[MetricSample]) -> Metric:
        if self.kind == "counter":
            counter = CounterMetricFamily(self.name, self.meaning, labels=self.labels)
            for s in samples:
                counter.add_metric(s.labels, s.value)
            return counter
        if self.kind == "gauge":
            gauge = GaugeMetricFamily(self.name, self.meaning, labels=self.labels)
            for s in samples:
                gauge.add_metric(s.labels, s.value)
            return gauge
        if self.kind == "histogram":
            histogram = HistogramMetricFamily(self.name, self.meaning, labels=self.labels)
            for s in samples:
                assert s.buckets is not None, "a histogram's samples have buckets"
                histogram.add_metric(s.labels, s.buckets, s.value)
            return histogram
        info = InfoMetricFamily(self.name, self.meaning)
        for s in samples:
            info.add_metric((), dict(zip(self.labels, s.labels, strict=True)))
        return info


OF_MODEL = ("model", "version")
FAMILIES: tuple[Family, ...] = (
    Family("evenkeel_requests", "counter", (*OF_MODEL, "code"),
           "Requests by the HTTP status of their answer; 499: the client left before it. Not /ping and /metrics."),
    Family("evenkeel_request_seconds", "histogram", OF_MODEL,
           "From the whole request being here to its answer being handed to the kernel; requests answered with 200."),
    Family("evenkeel_queue_seconds", "histogram", (),
           "From a request reaching its engine to the start of its batch."),
    Family("evenkeel_run_seconds", "histogram", (), "The model alone, once for each batch."),
    Family("evenkeel_batch_rows", "histogram", (), "Rows of each batch; the sum is the number of rows that ran."),
    Family("evenkeel_queue_rows", "gauge", (), "Rows in engines that no batch has taken yet."),
    Family("evenkeel_in_flight", "gauge", (), "Requests accepted and not yet answered."),
    Family("evenkeel_saturation_ratio", "gauge", (), "Share of the last 10 s in which ready engines were busy, 0 to 1."),
    Family("evenkeel_headroom_requests_per_second", "gauge", (),
           "How much more load the latency objective allows, or without one the engines; absent while unknown."),
    Family("evenkeel_shed", "counter", ("reason",),
           "Requests refused for load: rows, bytes or connections held at their limit, or a wait beyond the deadline."),
    Family("evenkeel_ways", "counter", ("step", "way"),
           "Requests by the way that they went at each step that has several, a worker's own too: see below."),
    Family("evenkeel_retries", "counter", (), "Requests run again because the engine that had them ended."),
    Family("evenkeel_restarts", "counter", ("process", "reason"), "Processes that ended and were replaced."),
    Family("evenkeel_log_lines_lost", "counter", (),
           "Lines that are missing in the log: nobody read it, or their source wrote more than it may in a second."),
    Family("evenkeel_ready", "gauge", (), "1 while /ping says 200, else 0."),
    Family("evenkeel_rollout_rollback_wanted", "gauge", (),
           "1 while the judge in the sidecar says that the candidate must go back, else 0; absent while it follows no rollout."),
    Family("evenkeel_rollout_evidence_insufficient", "gauge", (),
           "1 while the judge in the sidecar says hold, else 0; absent while it follows no rollout."),
    Family("evenkeel_state", "gauge", ("state",), "Engines in each state of their life."),
    Family("evenkeel_warmup_seconds", "gauge", (), "How long the slowest engine's warm-up took; absent before it is done."),
    Family("evenkeel_warmup_entries", "gauge", ("result",),
           "Shapes and batch sizes of the engines' warm-ups, by how their latency was at its end; absent before it is done."),
    Family("evenkeel_golden_checks", "gauge", ("result",),
           "Answers that warm-up compared with what is expected, over all engines; absent before it is done."),
    Family("evenkeel_startup_seconds", "gauge", ("phase",),
           "Phases of the slowest engine's last start; absent before it is done, and for phases that it has not."),
    Family("evenkeel_model", "info", (*OF_MODEL, "sha256"), "What is loaded; always 1. Absent before it is."),
    Family("evenkeel_provider", "gauge", ("provider",),
           "Engines whose model is run by this provider: cpu, cuda or tensorrt. Absent before it is loaded, and for handlers."),
    Family("evenkeel_device", "info", ("device", "name", "uuid"), "An accelerator of this machine; always 1."),
    Family("evenkeel_device_temperature_celsius", "gauge", ("device",), "How hot it is."),
    Family("evenkeel_device_utilization_ratio", "gauge", ("device",), "Share of the last second in which it was busy, 0 to 1."),
    Family("evenkeel_device_memory_used_bytes", "gauge", ("device",), "Memory in use, by whomever."),
    Family("evenkeel_device_memory_bytes", "gauge", ("device",), "Memory that it has."),
    Family("evenkeel_device_power_watts", "gauge", ("device",), "Power that it takes."),
    Family("evenkeel_device_clock_hertz", "gauge", ("device", "clock"), "How fast its multiprocessors (sm) and its memory run."),
    Family("evenkeel_device_throttled", "gauge", ("device", "reason"), "1 while it runs slower than it could for this reason."),
    Family("evenkeel_device_ecc_errors", "counter", ("device", "kind"),
           "Memory errors since its driver was loaded: corrected ones, and uncorrected, which cost answers."),
    Family("evenkeel_device_xid_errors", "counter", ("device",), "Xid errors: faults that its driver reported."),
)  # fmt: skip


def table() -> str:
    """The metrics as a Markdown table, for docs/metrics.md."""
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for f in FAMILIES:
        labels = ", ".join(f"`{name}`" for name in f.labels)
        lines.append(f"| `{f.shown}` | {f.type} | {labels} | {f.meaning} |")
    return "\n".join(lines)


class PageCollector:
    """Yields the metric families of one page. Keeps each engine's last text, for the moment in which it writes another."""

    def __init__(self, page: StatusPage) -> None:
        self._page = page
        self._texts: dict[int, dict[str, Any]] = {}

    def text(self) -> bytes:
        """A whole scrape. Always the plain format, which every scraper reads: nothing to negotiate, nothing to get wrong."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        by_family: dict[str, list[MetricSample]] = {family.name: [] for family in FAMILIES}
        for sample in self._samples():
            by_family[sample.name].append(sample)
        for family in FAMILIES:
            yield family.metric(by_family[family.name])

    def _samples(self) -> Iterator[MetricSample]:
        plan = self._text(PLAN_TEXT)
        for number, model in enumerate(plan.get("counted") or [plan.get("model", {})]):
            yield from _of_version(self._page, number, (_label(model.get("name")), _label(model.get("version"))))
        yield from _of_fronts(self._page)
        yield from _of_engines(self._page)
        yield from _of_container(self._page)
        yield from _of_devices(self._text(DEVICE_TEXT).get("devices", ()))
        yield from _of_texts([self._text(place) for place in places(self._page)])

    def _text(self, place: int) -> dict[str, Any]:
        """One look, no waiting: a writer that died in the middle must not hold up a scrape."""
        text = self._page.read_text(place, looks=1) or self._texts.get(place, {})
        self._texts[place] = text
        return text


class Scrapes:
    """The text for those who scrape: made by one thread at a time, and not without end for one who asks without end."""

    def __init__(self, page: StatusPage, clock: Callable[[], float] = time.monotonic) -> None:
        self._collector, self._clock = PageCollector(page), clock
        self._making = threading.Lock()
        self._text = b""
        self._fresh, self._counted_s = float(FRESH_MAX), clock()  # texts that may be made now, and when that was counted

    def kept(self) -> bytes | None:
        """The last text, where no new one is due. Waits for nobody."""
        earned = (self._clock() - self._counted_s) / FRESH_EVERY_S
        return self._text if self._text and self._fresh + earned < 1 else None

    def text(self) -> bytes:
        """A new text if one is due, else the last."""
        with self._making:
            kept = self.kept()
            if kept is not None:
                return kept
            now_s = self._clock()
            self._fresh = min(FRESH_MAX, self._fresh + (now_s - self._counted_s) / FRESH_EVERY_S) - 1
            self._counted_s = now_s
            self._text = self._collector.text()
            return self._text


def _of_version(page: StatusPage, number: int, of_model: tuple[str, str]) -> Iterator[MetricSample]:
    """What all fronts have answered with it."""
    fronts = [page.counters(i, number) for i in range(page.main.count[Main.FRONTS])]
    counts = [f.count for f in fronts]
    latency = _summed(counts, Front.LATENCY, TIME_CELLS)
    by_code = dict.fromkeys(CODES, 0)
    # The histogram rather than the cell OK: it is counted before the answer is sent, so that even a worker killed in
    # the middle of a batch has counted every answer that a client saw.
    by_code["200"] = sum(latency)
    by_code[str(Cancelled.status)] = sum(c[Front.ABANDONED] for c in counts)
    for error, count in zip(ERRORS, _summed(counts, Front.ERRORS, len(ERRORS)), strict=True):
        by_code[str(error.status)] += count
    for code, count in by_code.items():
        yield MetricSample("evenkeel_requests", (*of_model, code), count)
    seconds = sum(f.value[Front.LATENCY_SUM_S] for f in fronts)
    yield MetricSample("evenkeel_request_seconds", of_model, seconds, time_buckets(latency))


def _of_fronts(page: StatusPage) -> Iterator[MetricSample]:
    fronts = range(page.main.count[Main.FRONTS])
    shed, counts = dict.fromkeys(SHED, 0), [page.front(i).count for i in fronts]
    counted = [block.count for i in fronts for block in version_counters(page, i)]
    for error, count in zip(ERRORS, _summed(counted, Front.ERRORS, len(ERRORS)), strict=True):
        if error.shed:
            shed[error.shed] += count
    for reason, count in shed.items():
        yield MetricSample("evenkeel_shed", (reason,), count)
    for way, count in request_ways(page).items():
        yield MetricSample("evenkeel_ways", way, count)
    yield MetricSample("evenkeel_in_flight", (), sum(c[Front.IN_FLIGHT] for c in counts))
    yield MetricSample("evenkeel_retries", (), sum(c[Front.RESUBMITTED] for c in counts))


def _of_engines(page: StatusPage) -> Iterator[MetricSample]:
    engines = [page.engine(i) for i in range(page.main.count[Main.ENGINES])]
    counts = [e.count for e in engines]
    for name, cells, total in (
        ("evenkeel_queue_seconds", Engine.QUEUE_TIME, Engine.QUEUE_SUM_S),
        ("evenkeel_run_seconds", Engine.RUN_TIME, Engine.RUN_SUM_S),
    ):
        yield MetricSample(name, (), sum(e.value[total] for e in engines), time_buckets(_summed(counts, cells, TIME_CELLS)))
    batches = row_buckets(_summed(counts, Engine.BATCH_ROWS, ROW_CELLS))
    yield MetricSample("evenkeel_batch_rows", (), sum(c[Engine.ROWS] for c in counts), batches)
    yield MetricSample("evenkeel_queue_rows", (), sum(c[Engine.QUEUE_ROWS] for c in counts))
    states = [page.engine(i).count[Engine.STATE] for i in places(page)]
    for state in ReplicaState:
        yield MetricSample("evenkeel_state", (state.name.lower(),), states.count(state))


def _of_container(page: StatusPage) -> Iterator[MetricSample]:
    value = page.main.value
    for (role, reason), count in restarts(page).items():
        yield MetricSample("evenkeel_restarts", (role, reason), count)
    yield MetricSample("evenkeel_log_lines_lost", (), lines_lost(page))
    yield MetricSample("evenkeel_ready", (), page.verdict().ready)
    says = page.main.count[Main.ROLLOUT]
    if says != RolloutCell.NONE:
        yield MetricSample("evenkeel_rollout_rollback_wanted", (), says == RolloutCell.ROLLBACK)
        yield MetricSample("evenkeel_rollout_evidence_insufficient", (), says == RolloutCell.HOLD)
    if value[Main.MEASURED_S]:
        yield MetricSample("evenkeel_saturation_ratio", (), value[Main.SATURATION])
        if not math.isnan(value[Main.HEADROOM_RPS]):
            yield MetricSample("evenkeel_headroom_requests_per_second", (), value[Main.HEADROOM_RPS])


def _of_devices(devices: Iterable[dict[str, Any]]) -> Iterator[MetricSample]:
    """What they do not tell is absent."""
    for d in devices:
        place = str(d["place"])
        yield MetricSample("evenkeel_device", (place, _label(d["name"]), _label(d["uuid"])), 1)
        for name, key in DEVICE_VALUES.items():
            if d[key] is not None:
                yield MetricSample(name, (place,), d[key])
        for name, key in DEVICE_TABLES.items():
            for label, value in d[key].items():
                yield MetricSample(name, (place, label), value)


def _of_warmups(reports: list[dict[str, Any]]) -> Iterator[MetricSample]:
    results = [results for report in reports if (results := report.get("results"))]
    for result in results[0] if results else ():
        yield MetricSample("evenkeel_warmup_entries", (result,), sum(r[result] for r in results))
    checks = [golden for report in reports if (golden := report.get("golden"))]
    if checks:
        checked, passed = sum(c["checked"] for c in checks), sum(c["passed"] for c in checks)
        yield MetricSample("evenkeel_golden_checks", ("passed",), passed)
        yield MetricSample("evenkeel_golden_checks", ("failed",), checked - passed)


def _of_texts(texts: list[dict[str, Any]]) -> Iterator[MetricSample]:
    """What engines have explained of themselves."""
    warmed = [s for t in texts if (s := (t.get("warmup") or {}).get("seconds")) is not None]
    if warmed:
        yield MetricSample("evenkeel_warmup_seconds", (), max(warmed))
    yield from _of_warmups([w for t in texts if (w := t.get("warmup"))])
    for phase in PHASES:
        took = [s for t in texts if (s := (t.get("startup") or {}).get(f"{phase}_s")) is not None]
        if took:
            yield MetricSample("evenkeel_startup_seconds", (phase,), max(took))
    providers = [str(p) for t in texts if (p := (t.get("facts") or {}).get("provider"))]
    for provider in sorted(set(providers)):
        yield MetricSample("evenkeel_provider", (_label(provider),), providers.count(provider))
    models = [t["model"] for t in texts if (t.get("model") or {}).get("name")]  # its sum may be known before its name
    for labels in sorted({tuple(_label(m.get(key)) for key in ("name", "version", "sha256")) for m in models}):
        yield MetricSample("evenkeel_model", labels, 1)


def _label(value: object) -> str:
    return str(value or "")[:LABEL_CHARS_MAX]


def _summed(cells: list[memoryview], base: int, size: int) -> list[int]:
    """The same cells of several blocks, added up."""
    return [sum(column) for column in zip(*(c[base : base + size].tolist() for c in cells), strict=True)] or [0] * size


def time_buckets(cells: list[int]) -> Buckets:
    """A time histogram of the page as cumulative `le` buckets."""
    counts = [sum(cells[: FIRST_EDGE + 1]), *cells[FIRST_EDGE + 1 : LAST_EDGE + 1], sum(cells[LAST_EDGE + 1 :])]
    return list(zip(TIME_LES, accumulate(counts), strict=True))


def row_buckets(cells: list[int]) -> Buckets:
    """The histogram of rows: cell i holds what is below 2**i, and rows are whole, so at most 2**i - 1."""
    counts = [sum(cells[:2]), *cells[2 : ROW_EDGES + 1], sum(cells[ROW_EDGES + 1 :])]
    return list(zip(ROW_LES, accumulate(counts), strict=True))


def _les(edges: Iterable[float]) -> tuple[str, ...]:
    return (*(repr(float(e)) for e in edges), "+Inf")


# Edges from 64 us on are whole microseconds; rounded there, they are written as short as they are.
TIME_LES = _les(round(time_edge(i) * 1e6) / 1e6 for i in range(FIRST_EDGE, LAST_EDGE + 1))
ROW_LES = _les(2**i - 1 for i in range(1, ROW_EDGES + 1))
