"""What has changed and what went wrong, remembered: the last transitions, the last faults, how long phases took.

Owner of that memory. `look` is fed with what the watch loop sees and compares it with what it saw before; it reads no
clock and no page. `text` is the whole memory as it is saved on the status page, and `restore` makes it again from there,
so that a restarted sidecar goes on where its predecessor stopped, tells what changed meanwhile, and says that it is new.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.status_page import TEXT_BYTES

TRANSITIONS_MAX = 100
FAULTS_MAX = 16
MESSAGE_CHARS_MAX = 100
SAVED_BYTES_MAX = TEXT_BYTES - 256  # of the page's text: room for its head
PHASES = (ReplicaState.LOADING, ReplicaState.WARMING)  # whose duration tells when the next start will be ready


@dataclass(frozen=True, slots=True)
class Transition:
    at_s: float  # Unix time
    subject: str  # container, sidecar, or `engine 0`
    old: str
    new: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class SeenFault:
    """A kind of fault of one subject: how often, and when last."""

    at_s: float
    subject: str
    reason: str
    count: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class SeenReplica:
    place: int
    epoch: int
    state: ReplicaState
    since_s: float  # Unix time
    alive: bool
    # By error code, counted over all its lives. None in what was restored, where it would take too much room: errors
    # from between two sidecars are in the counters of /status, but not among the faults.
    faults: Mapping[str, int] | None = field(default_factory=dict)
    message: str = ""  # of its last failure, if it told one


@dataclass(frozen=True, slots=True)
class Seen:
    """What the watch loop saw at one moment."""

    now_s: float  # Unix time
    verdict: str
    replicas: tuple[SeenReplica, ...]
    restarts: Mapping[str, int]  # by `role/reason`


@dataclass(slots=True)
class TransitionLog:
    """Fields are replaced, never changed in place: the HTTP threads read them while the watch loop goes on."""

    transitions: tuple[Transition, ...] = ()
    faults: tuple[SeenFault, ...] = ()
    took_s: Mapping[str, float] = field(default_factory=dict)  # the last duration of each of PHASES
    life: int = 1  # how often a sidecar has begun on this page
    _last: Seen | None = None

    def look(self, seen: Seen) -> bool:
        """Compare with the moment before. True when there is something new to save."""
        last, self._last = self._last, seen
        if last is None:
            last = Seen(seen.now_s, "", (), {})
        before = {r.place: r for r in last.replicas}
        fresh = [t for r in seen.replicas for t in _steps(before.get(r.place), r, seen.now_s)]
        if last.verdict and last.verdict != seen.verdict:
            fresh.append(Transition(seen.now_s, "container", last.verdict, seen.verdict))
        elif not last.verdict:
            fresh.append(Transition(seen.now_s, "container", "", seen.verdict))
        faults = _restarts(last, seen) + [f for r in seen.replicas for f in _errors(before.get(r.place), r, seen.now_s)]
        for r in seen.replicas:
            self._learn(before.get(r.place), r)
        self._remember(fresh, faults)
        return bool(fresh or faults)

    def _remember(self, fresh: list[Transition], faults: list[SeenFault]) -> None:
        if fresh:
            self.transitions = (*self.transitions, *fresh)[-TRANSITIONS_MAX:]
        for fault in faults:
            same = next((f for f in self.faults if (f.subject, f.reason) == (fault.subject, fault.reason)), None)
            before = same.count if same else 0
            others = tuple(f for f in self.faults if f is not same)
            self.faults = (*others, replace(fault, count=before + fault.count))[-FAULTS_MAX:]

    def _learn(self, old: SeenReplica | None, new: SeenReplica) -> None:
        """Only from a phase that was seen to end in the next one; a life that ended in it teaches nothing."""
        if old is not None and old.epoch == new.epoch and old.state in PHASES and new.state == old.state + 1:
            self.took_s = {**self.took_s, old.state.name: round(new.since_s - old.since_s, 3)}

    # ---- saved and restored --------------------------------------------------------------------------------------

    def text(self) -> dict[str, Any]:
        """The memory in at most SAVED_BYTES_MAX of JSON: the oldest transitions give way."""
        assert self._last is not None, "saved after a look"
        last = self._last
        data: dict[str, Any] = {
            "life": self.life, "took_s": dict(self.took_s),
            "faults": [[f.at_s, f.subject, f.reason, f.count, f.message] for f in self.faults],
            "last": {"verdict": last.verdict, "restarts": {k: n for k, n in last.restarts.items() if n},
                     "replicas": [[r.place, r.epoch, int(r.state), r.since_s] for r in last.replicas]},
            "transitions": [[t.at_s, t.subject, t.old, t.new, t.why] for t in self.transitions],
        }  # fmt: skip
        while len(json.dumps(data)) > SAVED_BYTES_MAX and data["transitions"]:
            del data["transitions"][: 1 + len(data["transitions"]) // 8]
        return data


def restore(saved: Mapping[str, Any], now_s: float, predecessors: int) -> TransitionLog:
    """Go on from what a predecessor saved. Begin anew when there was none; also, saying so, when one was ended in the
    middle of saving or left what cannot be read."""
    if not saved and not predecessors:
        return TransitionLog()
    try:
        memory = _parse(saved)
    except (KeyError, TypeError, ValueError, AttributeError):
        memory = TransitionLog(life=predecessors + 1)
    why = f"life {memory.life}" if memory.transitions else "with nothing remembered"
    memory.transitions = (*memory.transitions, Transition(now_s, "sidecar", "gone", "restarted", why))[-TRANSITIONS_MAX:]
    return memory


def _parse(saved: Mapping[str, Any]) -> TransitionLog:
    last = saved["last"]
    replicas = tuple(
        SeenReplica(int(place), int(epoch), ReplicaState(state), float(since_s), True, faults=None)
        for place, epoch, state, since_s in last["replicas"]
    )
    return TransitionLog(
        transitions=tuple(Transition(float(at_s), str(a), str(b), str(c), str(d)) for at_s, a, b, c, d in saved["transitions"]),
        faults=tuple(SeenFault(float(at_s), str(a), str(b), int(n), str(c)) for at_s, a, b, n, c in saved["faults"]),
        took_s={str(k): float(s) for k, s in saved["took_s"].items()},
        life=int(saved["life"]) + 1,
        _last=Seen(0.0, str(last["verdict"]), replicas, {str(k): int(n) for k, n in last["restarts"].items()}),
    )


# ---- comparisons, pure -------------------------------------------------------------------------------------------------


def _steps(old: SeenReplica | None, new: SeenReplica, now_s: float) -> list[Transition]:
    subject = f"engine {new.place}"
    if old is None:
        return [Transition(new.since_s or now_s, subject, "", new.state.name)]
    if old.epoch != new.epoch:
        return [Transition(now_s, subject, old.state.name, new.state.name, f"start {new.epoch}")]
    if old.state != new.state:
        return [Transition(new.since_s or now_s, subject, old.state.name, new.state.name)]
    return []


def _restarts(old: Seen, new: Seen) -> list[SeenFault]:
    """A process ended and was, or will be, started again. Which engine it was shows by its epoch or its absence."""
    before = {r.place: r for r in old.replicas}
    faults = []
    for key, count in new.restarts.items():
        more = count - old.restarts.get(key, 0)
        if more <= 0:
            continue
        role, _, reason = key.partition("/")
        changed = [r for r in new.replicas if not r.alive or (r.place in before and r.epoch != before[r.place].epoch)]
        one_engine = role == "engine" and len(changed) == 1
        message = _plain(changed[0].message) if one_engine else ""
        faults.append(SeenFault(new.now_s, f"engine {changed[0].place}" if one_engine else role, reason, more, message))
    return faults


def _errors(old: SeenReplica | None, new: SeenReplica, now_s: float) -> list[SeenFault]:
    before = old.faults if old is not None else {}
    if before is None or new.faults is None:
        return []
    return [
        SeenFault(now_s, f"engine {new.place}", code, count - before.get(code, 0))
        for code, count in new.faults.items()
        if count > before.get(code, 0)
    ]


def _plain(message: str) -> str:
    """ASCII, so that a character is a byte in the saved text, and short."""
    return message.encode("ascii", "replace").decode().replace("\n", " ")[:MESSAGE_CHARS_MAX]
