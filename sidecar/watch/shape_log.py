"""Keeps the shape log: what the engines say of the shapes they met, in a file for the next version to warm up on.

Owner of the file. What it held at start counts half: shapes that nobody sends any more fade with every start. Counts are
weights, not statistics: a sidecar that starts again counts its engines' batches again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from evenkeel.serve.contract import shape_uses
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.shape_uses import Dims, ShapeUse
from evenkeel.serve.contract.status_page import Main, StatusPage, read_engine

WRITE_EVERY_S = 5.0
KEYS_MAX = 4 * shape_uses.SHAPES_MAX  # counts held in memory, of which the most used are written

Key = tuple[Dims, int]  # shape, and size of the batch
Counts = dict[Key, int]


class ShapeLog:
    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._counts: Counts = {}
        self._seen: dict[int, tuple[int, Mapping[Key, int]]] = {}  # by place: the epoch, and what it said last
        self._looked_s = -WRITE_EVERY_S
        self._written = b""
        self._complained = False
        try:
            self._counts = {key: max(1, n // 2) for key, n in counts(shape_uses.read(path)).items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as e:
            log("bad_shape_log", f"EVENKEEL_SHAPE_LOG={path} is not a shape log: {e}; it is begun anew")

    def look(self, page: StatusPage, now_s: float, *, last: bool = False) -> None:
        """Called often; works every few seconds, and when it is the last time."""
        if now_s - self._looked_s < WRITE_EVERY_S and not last:
            return
        self._looked_s = now_s
        model = ""
        for place in range(page.main.count[Main.ENGINES]):
            text = page.read_text(place)
            try:
                counted = counts(shape_uses.from_json(text.get("shapes", [])))
            except ValueError:
                continue  # an engine of another version speaks otherwise
            model = str((text.get("model") or {}).get("name") or model)
            self._add(place, read_engine(page, place).epoch, counted)
        self._write(model)

    def _add(self, place: int, epoch: int, counted: Mapping[Key, int]) -> None:
        """What is new since this engine was looked at last. One that was started again counts from nothing."""
        last_epoch, last = self._seen.get(place, (epoch, {}))
        for key, count in counted.items():
            before = last.get(key, 0) if epoch == last_epoch else 0
            more = count - before if count >= before else count
            if more and (key in self._counts or len(self._counts) < KEYS_MAX):
                self._counts[key] = self._counts.get(key, 0) + more
        self._seen[place] = (epoch, counted)

    def _write(self, model: str) -> None:
        """Beside the file and then in its place, so that anyone who reads it never sees half of it."""
        if not self._counts:
            return
        raw = shape_uses.dump(model, uses(self._counts))
        if raw == self._written:
            return
        part = self._path.with_name(f"{self._path.name}.{os.getpid()}.part")
        try:
            part.write_bytes(raw)
            part.replace(self._path)
            self._written = raw
        except OSError as e:
            with contextlib.suppress(OSError):
                part.unlink()
            if not self._complained:
                log("no_shape_log", f"EVENKEEL_SHAPE_LOG={self._path} cannot be written: {e.strerror}")
            self._complained = True


def counts(shape_uses_read: list[ShapeUse]) -> Counts:
    return {(use.dims, rows): n for use in shape_uses_read for rows, n in use.runs}


def uses(counted: Mapping[Key, int]) -> list[ShapeUse]:
    by_dims: dict[Dims, list[tuple[int, int]]] = {}
    for (dims, rows), n in sorted(counted.items()):
        by_dims.setdefault(dims, []).append((rows, n))
    return [ShapeUse(dims, tuple(runs)) for dims, runs in by_dims.items()]
