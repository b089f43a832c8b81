"""What a load test has to show, from `NAME=VALUE` words, and whether it did. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

AT_MOST = {"P50_MS": "p50_ms", "P95_MS": "p95_ms", "P99_MS": "p99_ms", "FAILURES": "failures"}
AT_LEAST = {"RPS": "rps"}


@dataclass(frozen=True, slots=True)
class Judged:
    name: str
    wanted: float
    found: float
    kept: bool

    def __str__(self) -> str:
        sign = "at most" if self.name in AT_MOST else "at least"
        return f"{'kept  ' if self.kept else 'MISSED'}  {self.name} {self.found:g}, wanted {sign} {self.wanted:g}"


def parse(words: Sequence[str]) -> dict[str, float]:
    """Raises ValueError that names the word which is wrong. A word with nothing behind `=` says nothing."""
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in {**AT_MOST, **AT_LEAST}:
            raise ValueError(f"{word}: unknown objective; there are {', '.join({**AT_MOST, **AT_LEAST})}")
        if not value:
            continue
        try:
            found[name] = float(value)
        except ValueError:
            raise ValueError(f"{word}: must be a number") from None
    return found


def judge(wanted: Mapping[str, float], result: Mapping[str, Any]) -> list[Judged]:
    """One for each objective. With no request answered, nothing is kept but a number of failures."""
    found = []
    for name, value in wanted.items():
        seen = result.get({**AT_MOST, **AT_LEAST}[name])
        seen = float("inf") if seen is None else float(seen)
        kept = seen <= value if name in AT_MOST else seen >= value
        found.append(Judged(name, value, seen, kept and result.get("requests", 0) > 0))
    return found
