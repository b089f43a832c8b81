"""CloudWatch metrics as log lines: one JSON object a period on stdout, in the embedded metric format.

CloudWatch makes metrics of such lines wherever it takes the container's log, without credentials or a network: that is
how its alarms, and with them an automatic rollback, see the endpoint from inside. The line is a log line of ours in
nothing but its way out: the format wants nothing around it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from evenkeel.serve.contract import logline
from evenkeel.serve.contract.log_sink import Sink
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import PLAN_TEXT, Main, RolloutCell, StatusPage
from evenkeel.sidecar.watch.rates import Totals, between, read

LINE_BYTES_MAX = 4000  # a pipe takes so much in one piece, so that lines of several processes do not mix
DIMENSION_CHARS_MAX = 250  # of the namespace too
UNITS = {
    "Requests": "Count", "Errors": "Count", "RefusedRequests": "Count", "ShedRequests": "Count", "Restarts": "Count",
    "LatencyP50": "Milliseconds", "LatencyP99": "Milliseconds", "Saturation": "Percent", "Ready": "Count",
    "QueueRows": "Count", "InFlight": "Count", "HeadroomRequests": "Count/Second",
    "RollbackWanted": "Count", "EvidenceInsufficient": "Count",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Period:
    """What a line tells of: everything between two moments, and how things are at the second."""

    before: Totals
    after: Totals
    ready: bool
    headroom_rps: float | None
    rollout: int = RolloutCell.NONE

    def values(self) -> dict[str, float]:
        """By metric. What nobody knows is left out: a made-up zero would calm an alarm."""
        a, b, point = self.before, self.after, between(self.before, self.after)
        measured: dict[str, float | None] = {
            "Requests": sum(b.latency) - sum(a.latency) + b.failed - a.failed + b.refused - a.refused,
            "Errors": b.failed - a.failed, "RefusedRequests": b.refused - a.refused, "ShedRequests": b.shed - a.shed,
            "Restarts": b.restarts - a.restarts, "LatencyP50": _ms(point.p50_s), "LatencyP99": _ms(point.p99_s),
            "Saturation": round(100 * point.saturation, 2), "Ready": int(self.ready), "QueueRows": b.queue_rows,
            "InFlight": b.in_flight, "HeadroomRequests": None if self.headroom_rps is None else round(self.headroom_rps, 2),
            "RollbackWanted": self._says(RolloutCell.ROLLBACK), "EvidenceInsufficient": self._says(RolloutCell.HOLD),
        }  # fmt: skip
        return {name: value for name, value in measured.items() if value is not None}

    def _says(self, word: RolloutCell) -> int | None:
        return None if self.rollout == RolloutCell.NONE else int(self.rollout == word)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 4)


def line(values: dict[str, float], model: str, version: str, namespace: str, wall_s: float) -> str:
    """One record. Both sets of dimensions: an alarm on the model alone also watches the version that is to replace it."""
    metrics = [{"Name": name, "Unit": UNITS[name]} for name in values]
    directive = {
        "Namespace": _dimension(namespace),
        "Dimensions": [["model"], ["model", "version"]],
        "Metrics": metrics,
    }
    record: dict[str, Any] = {
        "_aws": {"Timestamp": int(wall_s * 1000), "CloudWatchMetrics": [directive]},
        "model": _dimension(model), "version": _dimension(version), **values,
    }  # fmt: skip
    return json.dumps(record, allow_nan=False)


def _dimension(text: str) -> str:
    """Printable ASCII, and never empty: what else CloudWatch refuses, and escaped it would have no bound in bytes."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text[:DIMENSION_CHARS_MAX]).strip() or "none"


class Emf:
    """Keeps the totals of the last line, in `saved` too: when this sidecar is replaced, its successor's first line goes on
    from there, so that every request is in exactly one line. The last part of a period before the container's end is in none.
    Lines go where the log goes, or to `fd`.
    """

    def __init__(self, period_s: float, namespace: str, fd: int | None = None, saved: Path | None = None) -> None:
        self._period_s, self._namespace, self._saved = period_s, namespace, saved
        self._sink = logline.sink() if fd is None else Sink(fd, logline.lines_lost)
        self._before: Totals | None = self._load() if period_s else None

    def tick(self, page: StatusPage, now_s: float, wall_s: float, headroom_rps: float | None) -> None:
        """Write a line when the period is over."""
        if not self._period_s:
            return
        if self._before is None:
            self._go_on_from(read(page, now_s))
        assert self._before is not None, "just set"
        if now_s - self._before.at_s < self._period_s:
            return
        after = read(page, now_s)
        values = Period(self._before, after, page.verdict().ready, headroom_rps, page.main.count[Main.ROLLOUT]).values()
        # Saved before it is written: who dies between the two has lost a line, and counted nothing twice.
        self._go_on_from(after)
        model = page.read_text(PLAN_TEXT, looks=1).get("model", {})
        text = line(values, model.get("name", ""), model.get("version", ""), self._namespace, wall_s)
        data = text.encode() + b"\n"
        assert len(data) <= LINE_BYTES_MAX, "fourteen metrics and three bounded names"
        self._sink.write(data)

    def _go_on_from(self, totals: Totals) -> None:
        self._before = totals
        if self._saved is None:
            return
        new = self._saved.with_suffix(".new")
        try:
            new.write_text(json.dumps(asdict(totals)))
            os.replace(new, self._saved)
        except OSError as e:
            self._saved = None
            log("emf_not_saved", f"cannot save the last totals: {e.strerror}; a restarted sidecar begins a period anew",
                level="error")  # fmt: skip

    def _load(self) -> Totals | None:
        """None when there is none, or none that can be read."""
        if self._saved is None:
            return None
        try:
            data = json.loads(self._saved.read_text())
            return Totals(**{f.name: _frozen(data[f.name]) for f in fields(Totals)})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as e:
            log("emf_not_saved", f"the last totals cannot be read, so a period begins anew: {e!r}", level="error")
            return None


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
