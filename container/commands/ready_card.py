"""What stands on the terminal once a model serves: what it is, how to ask it, where its page is. A pure function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evenkeel.container.commands.first_request import FirstAnswer, FirstRequest, curl

NO_SAMPLE = "no request is known that it answers: put one into samples/one.json, and into model.toml the lines"
NO_SAMPLE_LINES = ("[[samples]]", 'input = "samples/one.json"')
TRY = "-H 'Content-Type: application/json' -d '[[…]]', with rows of yours; what it takes is up to the handler"


@dataclass(frozen=True, slots=True)
class Serving:
    """As the log's event `serving` tells."""

    address: str  # HOST:PORT of requests, as somebody on this machine writes it
    page: str
    seconds: float


def lines(serving: Serving, status: Mapping[str, Any], asked: tuple[FirstRequest, FirstAnswer] | None) -> list[tuple[str, str]]:
    """A label and its text, line by line; the first is the head and has none."""
    told = [("", head(serving, status))]
    if asked is None:
        told += [("ask", NO_SAMPLE), *(("", line) for line in NO_SAMPLE_LINES)]
        told.append(("try", f"curl -s {serving.address}/invocations {TRY}"))
    elif asked[1].status != 200:
        told.append(("ask", f"a first request was answered with {asked[1].status}: {asked[1].shown}"))
    else:
        told += [("ask", curl(serving.address, *asked)), ("gives", asked[1].shown)]
    return [*told, ("page", f"{serving.page}/"), ("stop", "Ctrl-C")]


def head(serving: Serving, status: Mapping[str, Any]) -> str:
    """Model, version, backend, checks, seconds; without what is not known."""
    model: Mapping[str, Any] = next(iter(status.get("models") or ()), {})
    replicas = status.get("replicas") or ()
    name = " ".join(str(model[key]) for key in ("name", "version") if model.get(key)) or "the model"
    return " · ".join([
        name, *filter(None, [str(model.get("backend") or "")]), *([f"{len(replicas)} replicas"] if len(replicas) > 1 else []),
        golden(replicas), f"ready in {serving.seconds:.1f} s",
    ])  # fmt: skip


def golden(replicas: Any) -> str:
    """Golden is only what was compared with an output that somebody expects."""
    reports = [replica.get("warmup") or {} for replica in replicas]
    told = [report.get("golden") or {} for report in reports]
    outputs, batches = (sum(int(each.get(key, 0)) for each in told) for key in ("outputs", "batches"))
    passed = [f"{count} {kind}" for kind, count in (("golden", outputs), ("batch", batches)) if count]
    if passed:
        return f"{' and '.join(passed)} checks passed"
    why = "its samples have no outputs" if any(report.get("samples") for report in reports) else "it has no samples"
    return f"no golden checks, since {why}"
