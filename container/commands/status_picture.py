"""What `evenkeel status` prints for a person at a terminal: a pure function of the sidecar's /status."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

BAR_CELLS = 20
SHOWN_MAX = 8  # of transitions and of faults
GREEN, YELLOW, RED, BOLD, PLAIN = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[1m", "\x1b[0m"


class Paint:
    """Colours, or none. They only repeat what the words say."""

    def __init__(self, colours: bool) -> None:
        self._colours = colours

    def __call__(self, colour: str, text: str) -> str:
        return f"{colour}{text}{PLAIN}" if self._colours else text


def picture(status: Mapping[str, Any], paint: Paint) -> str:
    parts = [
        _verdict(status, paint),
        _now(status),
        rollout(status.get("rollout"), paint),
        _models(status),
        _replicas(status, paint),
    ]
    parts += [_faults(status, paint), _transitions(status)]
    return "\n\n".join(part for part in parts if part)


def _verdict(s: Mapping[str, Any], paint: Paint) -> str:
    word = "READY" if s["ready"] else "NOT READY"
    head = f"{paint(BOLD + (GREEN if s['ready'] else RED), word)}: {s['reason']} for {span(s['for_s'])}"
    lines = [f"{head}  (state {s['state']}, up {span(s['uptime_s'])})"]
    if s["clears_when"]:
        soon = f", in about {span(s['ready_in_s'])}" if s["ready_in_s"] else ""
        lines.append(f"  clears when: {s['clears_when']}{soon}".replace("clears when: nothing: ", ""))
    lines += [f"  {paint(YELLOW, 'not ' + c['name'])}: {c['missing']}" for c in s["conditions"] if not c["ok"]]
    return "\n".join(lines)


def _now(s: Mapping[str, Any]) -> str:
    now = s["measures"]["now"]
    return (
        f"last 10 s: {now['requests_per_s']:.1f} requests/s, {now['errors_per_s']:.1f} errors/s, p50 {millis(now['p50_s'])}, "
        f"p99 {millis(now['p99_s'])}; queue {s['queue_rows']} rows, in flight {s['in_flight']}, "
        f"saturation {s['saturation']:.0%}"
    )


VERDICTS = {"promote": (GREEN, "PROMOTE"), "hold": (YELLOW, "HOLD"), "rollback": (RED, "ROLL BACK")}


def rollout(r: Mapping[str, Any] | None, paint: Paint) -> str:
    """The rollout that the sidecar judges; nothing when it judges none."""
    if r is None:
        return ""
    colour, word = VERDICTS[r["decision"]]
    allowed = f" of {span(r['max_s'])}" if r["max_s"] else ""
    head = (
        f"rollout {r['rollout']}".rstrip() + f": {paint(colour, word)}{', final,' if r['final'] else ''} for {span(r['for_s'])}"
    )
    lines = [f"{head}  ({r['phase']}, {span(r['elapsed_s'])}{allowed}, stage {r['stage']}, {r['windows']} windows)"]
    lines += [f"  {f['code']}: {f['about']}: {f['words']}" for f in r["reasons"][:SHOWN_MAX]]
    for name, arm in r["arms"].items():
        lines.append(f"  {name} {', '.join(arm['instances'])}: {arm['requests']} requests")
        lines += [f"    {paint(RED, 'missing')} {instance}: {why}" for instance, why in arm["missing"].items()]
    return "\n".join([*lines, *(_evidence(name, m) for name, m in r["metrics"].items())])


def _evidence(name: str, m: Mapping[str, Any]) -> str:
    ours, theirs, high = m["candidate"], m["reference"], m["ratio"]["high"]
    worse = f"{_towards(min(m['count_e'], m['sign_e']), m['rollback_at'])} {m['count_e']:.3g} and {m['sign_e']:.3g}"
    good = f"{_towards(m['good_e'], m['promote_at'])} {m['good_e']:.3g}"
    return (
        f"  {name}: {ours['bad']} of {ours['requests']} against {theirs['bad']} of {theirs['requests']}, "
        f"ratio {m['ratio']['low']:.3g}..{'any' if high is None else f'{high:.3g}'}\n"
        f"    worse {worse} of {m['rollback_at']:.4g}, good {good} of {m['promote_at']:g}"
    )


def _towards(e: float, needed: float) -> str:
    """How far an e-value has come, by its logarithm: it begins at 1."""
    share = math.log(max(e, 1.0)) / math.log(needed) if needed > 1 else 1.0
    return bar(int(BAR_CELLS * min(1.0, share)), BAR_CELLS)


def _models(s: Mapping[str, Any]) -> str:
    return "\n".join([*_served(s), *_versions(s)])


def _versions(s: Mapping[str, Any]) -> list[str]:
    """Every version that is loaded or on disk, what becomes of a swap, and the last one that failed."""
    told = s.get("versions") or {}
    if not told.get("versioned"):
        return []
    lines = [f"versions: {', '.join(_version(v, s['now']) for v in told['versions'])}"]
    if told["phase"] != "steady":
        lines.append(f"  swap to {told['wanted']}, {told['how']}: {told['phase']}")
    if told["failures"]:
        last = told["failures"][0]
        lines.append(f"  {span(s['now'] - last['at_s'])} ago version {last['version']} was not taken: {last['message']}")
    return lines


def _version(v: Mapping[str, Any], now_s: float) -> str:
    until = f" for {span(v['until'] - now_s)} more" if v.get("until") else ""
    return f"{v['version']} ({v['phase']}{until})"


def _served(s: Mapping[str, Any]) -> list[str]:
    return [
        f"model {m.get('name')} version {m.get('version')} ({m.get('backend')}), sha256 {m.get('sha256') or 'not told'}"
        for m in s["models"]
    ]


def _replicas(s: Mapping[str, Any], paint: Paint) -> str:
    return "\n".join(_replica(r, paint) for r in s["replicas"])


def _replica(r: Mapping[str, Any], paint: Paint) -> str:
    colour = GREEN if r["state"] == "READY" and r["alive"] else RED if r["state"] == "FAILED" or not r["alive"] else YELLOW
    state = r["state"] if r["alive"] else f"{r['state']}, its process is gone"
    line = f"engine {r['place']}: {paint(colour, state)}"
    if r["state"] == "WARMING":
        line += f"  {bar(r['warm_done'], r['warm_total'])} {r['warm_done']} of {r['warm_total']}"
    if r["ready_in_s"]:
        line += f", ready in about {span(r['ready_in_s'])}"
    busy = "" if r["saturation"] is None else f", busy {r['saturation']:.0%}"
    return f"{line}  (pid {r['pid']}, queue {r['queue_rows']} rows{busy}, {r['restarts']} restarts)"


def _faults(s: Mapping[str, Any], paint: Paint) -> str:
    lines = [
        f"  {span(s['now'] - f['at_s']):>6} ago  {f['subject']}: {f['reason']} ({f['count']} times) {f['message']}".rstrip()
        for f in s["faults"][:SHOWN_MAX]
    ]
    return "\n".join([paint(YELLOW, "faults"), *lines]) if lines else ""


def _transitions(s: Mapping[str, Any]) -> str:
    lines = [
        f"  {span(s['now'] - t['at_s']):>6} ago  {t['subject']}: {t['old'] or 'nothing'} -> {t['new']} {t['why']}".rstrip()
        for t in s["transitions"][:SHOWN_MAX]
    ]
    return "\n".join(["transitions", *lines]) if lines else ""


def bar(done: int, total: int) -> str:
    filled = BAR_CELLS * min(done, total) // total if total > 0 else 0
    return f"[{'#' * filled}{'-' * (BAR_CELLS - filled)}]"


def span(seconds: float) -> str:
    """A time in its two leading units at most."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{seconds:.1f} s" if 0 < seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def millis(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1000:.1f} ms"
