"""The judge's simulation in numbers: shares with their limits, and bars that are met or missed. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.special import betaincinv


def limits(count: int, runs: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval for a share."""
    tail = (1 - level) / 2
    if runs == 0:
        return 0.0, 1.0
    low = 0.0 if count == 0 else float(betaincinv(count, runs - count + 1, tail))
    high = 1.0 if count == runs else float(betaincinv(count + 1, runs - count, 1 - tail))
    return low, high


def share(count: int, runs: int) -> str:
    low, high = limits(count, runs)
    return f"{count / max(1, runs):.4f} ({low:.4f}–{high:.4f})"


@dataclass(frozen=True, slots=True)
class Target:
    words: str
    count: int
    runs: int
    least: float | None = None
    most: float | None = None

    @property
    def verdict(self) -> str:
        """Judged by the limits of the interval, so that luck alone neither meets a target nor misses it."""
        low, high = limits(self.count, self.runs)
        if (self.least is None or low >= self.least) and (self.most is None or high <= self.most):
            return "met"
        missed = (self.least is not None and high < self.least) or (self.most is not None and low > self.most)
        return "**missed**" if missed else "not shown"

    @property
    def share(self) -> float:
        return self.count / max(1, self.runs)

    def row(self) -> str:
        wanted = f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}" if self.most is not None else ""
        return f"| {self.words} | {wanted} | {share(self.count, self.runs)}, {self.runs} | {self.verdict if wanted else ''} |"


TITLES = {
    "rollback": "False rollbacks", "promotion": "False promotions", "detection": "Detection", "healthy": "Healthy candidates",
    "fleet": "Single instances, by the product's own code", "others": "Beside others, on the same traffic: share rolled back",
}  # fmt: skip


def page(pieces: dict[str, list[Target]]) -> str:
    """All that was measured as Markdown. A cell that was measured more than once, with other seeds, is one cell."""
    lines = []
    for piece, measured in pieces.items():
        targets = merged(measured)
        if targets:
            lines += ["", f"## {TITLES[piece]}", "", *(_beside(targets) if piece == "others" else _bars(targets))]
    return "\n".join(lines)


def merged(targets: list[Target]) -> list[Target]:
    found: dict[str, Target] = {}
    for t in targets:
        known = found.get(t.words, Target(t.words, 0, 0, t.least, t.most))
        found[t.words] = Target(t.words, known.count + t.count, known.runs + t.runs, t.least, t.most)
    return list(found.values())


def _bars(targets: list[Target]) -> list[str]:
    return ["| | bar | simulated (95 % interval), runs | |", "|---|---|---|---|", *(t.row() for t in targets)]


def _beside(targets: list[Target]) -> list[str]:
    """One row a kind of traffic, one column a method."""
    cells = {tuple(t.words.split(" | ")[1:]): t for t in targets}
    methods, traffic = dict.fromkeys(m for _, m in cells), dict.fromkeys(words for words, _ in cells)
    rows = [f"| {words} | " + " | ".join(f"{cells[words, m].share:.3f}" for m in methods) + " |" for words in traffic]
    return ["| | " + " | ".join(methods) + " |", "|---|" + "---|" * len(methods), *rows]
