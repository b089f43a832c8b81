"""A rollout in progress as files, so that another process goes on where this one stopped.

`rollout.jsonl` is the replay log as far as it has come; a window is added to it first. `rollout.json` is everything else and is
replaced as a whole afterwards. It says how many windows it knows, so that one which was written just before the end counts as
not seen: the raw counters of the round before it are still there, and the next window covers its time too.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenkeel.sidecar.rollout import replay
from evenkeel.sidecar.rollout.counters import Window
from evenkeel.sidecar.rollout.judge_errors import BadLog, BadRule
from evenkeel.sidecar.rollout.rollout import Rollout, RolloutMemory
from evenkeel.sidecar.rollout.rule import Rule
from evenkeel.sidecar.rollout.spec import RolloutSpec, from_json

FORMAT = "evenkeel rollout in progress 2"
LOG, STATE = "rollout.jsonl", "rollout.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where it stands. Times are CLOCK_MONOTONIC, which all processes of a container share."""

    order: RolloutSpec
    named_s: float
    start_s: float | None  # of the first round; None while not all instances have answered
    rollout: Rollout


def begin(folder: Path, progress: Checkpoint) -> None:
    """Raises OSError; then nothing of an earlier rollout is left either."""
    end(folder)
    (folder / LOG).write_text(_log_head(progress.rollout.rule))
    _replace_state(folder, progress)


def add(folder: Path, progress: Checkpoint, window: Window | None) -> None:
    """Raises OSError; what was saved before then still holds, as long as nothing more is added."""
    if window is not None:
        with (folder / LOG).open("a") as log:
            log.write(replay.line({"window": window.to_json()}) + "\n")
    _replace_state(folder, progress)


def end(folder: Path) -> None:
    for name in (STATE, LOG):
        (folder / name).unlink(missing_ok=True)


def load(folder: Path) -> Checkpoint | None:
    """None when there is nothing. Raises BadLog when it cannot be read."""
    with contextlib.suppress(FileNotFoundError):
        return _load(folder)
    return None


def _log_head(rule: Rule) -> str:
    return replay.line({"format": replay.FORMAT, "rule": rule.to_json()}) + "\n"


def _replace_state(folder: Path, progress: Checkpoint) -> None:
    memory = progress.rollout.memory()
    head = {"format": FORMAT, "order": progress.order.to_json(), "named_s": progress.named_s, "start_s": progress.start_s,
            "memory": memory.head}  # fmt: skip
    new = folder / f"{STATE}.new"
    with new.open("w") as out:
        # A line for each instance rather than one for all: making JSON holds up every other thread of the process.
        out.writelines(replay.line(data) + "\n" for data in (head, *memory.scrapes))
    os.replace(new, folder / STATE)


def _load(folder: Path) -> Checkpoint:
    try:
        head, *scrapes = map(json.loads, (folder / STATE).read_text().splitlines())
        if head["format"] != FORMAT:
            raise BadLog(f"{STATE}: not of format {FORMAT!r}")
        order = from_json(head["order"], "")
        rule = order.rule()
        windows = _windows(folder, rule, int(head["memory"]["windows"]))
        rollout = Rollout.resumed(rule, windows, RolloutMemory(head["memory"], tuple(scrapes)))
        start_s = None if head["start_s"] is None else float(head["start_s"])
        return Checkpoint(order, float(head["named_s"]), start_s, rollout)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, IndexError, BadRule) as e:
        raise BadLog(f"what was saved of it cannot be read: {type(e).__name__}: {str(e)[:200]}") from e


def _windows(folder: Path, rule: Rule, count: int) -> Sequence[Window]:
    """The first `count` of the log; what may stand behind them is cut off."""
    path = folder / LOG
    lines = path.read_text().splitlines(keepends=True)
    data: list[dict[str, Any]] = [json.loads(line) for line in lines[: count + 1]]
    if len(data) <= count or data[0] != json.loads(_log_head(rule)):
        raise ValueError(f"{LOG} has {len(data) - 1} of {count} windows, or another rule")
    os.truncate(path, sum(len(line.encode()) for line in lines[: count + 1]))
    return [Window.from_json(entry["window"]) for entry in data[1:]]
