"""What an engine says of itself on the status page: one JSON text, in one place, with a bound.

Nobody but the engine's own process writes it: once when it is ready or has failed, and while it serves whenever the
shapes in use have changed, from a thread that only reads what the cycle counts.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from typing import Any

from evenkeel.serve.batching.cost import Curve, best_rows, rising
from evenkeel.serve.contract import shape_uses
from evenkeel.serve.contract.logline import sink
from evenkeel.serve.contract.shape_uses import ShapeUse
from evenkeel.serve.contract.status_page import TEXT_BYTES, Engine, StatusPage
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.engine.models.startup import Ledger
from evenkeel.serve.engine.models.warmup_report import Report

PUBLISH_EVERY_S = 2.0
SHAPES_SHOWN = 32
UNMEASURED = "what a batch costs is not measured yet: nothing has run"
NEWS = 0.1  # a cost that has moved by less is no news


class Explanation:
    """The text of one engine, written again when a part of it changes."""

    def __init__(self, page: StatusPage, place: int, ledger: Ledger, epoch: int | None = None) -> None:
        self._page, self._place, self._ledger = page, place, ledger
        self._epoch = epoch  # of this process: once the place has another one, the text is its successor's. None: for ever
        self._parts: dict[str, Any] = {}
        self._replica: Replica | None = None
        self._lock = threading.Lock()  # the fingerprint's thread and the publisher's may both have something new

    def loaded(self, replica: Replica) -> None:
        self._replica = replica
        manifest, signature = replica.manifest, replica.signature
        model = {"name": manifest.name, "version": manifest.version, "backend": manifest.backend}
        self.update(
            model={**model, "sha256": self._parts.get("model", {}).get("sha256")}, facts=replica.backend.describe(),
            inputs=[s.describe(signature.rows_axis) for s in signature.inputs] if signature else "raw body",
            outputs=[s.describe(signature.rows_axis) for s in signature.outputs] if signature else "raw body")  # fmt: skip

    def warmed(self, replica: Replica, report: Report) -> None:
        self.update(batching=batching(replica), startup=self._ledger.to_json(), warmup=report.to_json())

    def failed(self, reason: str, message: str, report: Report | None) -> None:
        more = {"warmup": report.to_json()} if report else {}
        self.update(startup=self._ledger.to_json(), failure={"reason": reason, "message": message[:2000]}, **more)

    def fingerprint(self, sha256: str) -> None:
        self.update(model={**self._parts.get("model", {}), "sha256": sha256})

    def describe(self) -> list[dict[str, Any]]:
        """The model that it tells of, once it is loaded, for the one who asks by command."""
        if self._replica is None:
            return []
        manifest, sha256 = self._replica.manifest, self._parts.get("model", {}).get("sha256")
        return [{"name": manifest.name, "version": manifest.version, "revision": self._replica.revision, "sha256": sha256}]

    def shapes(self, replica: Replica) -> None:
        """What has run, if that has changed."""
        text = shape_uses.to_json(shapes_in_use(replica))
        if text and text != self._parts.get("shapes"):
            self.update(shapes=text)

    def costs(self, replica: Replica) -> None:
        """What batches cost, if that has changed."""
        told, now = self._parts.get("batching"), batching(replica)
        if told is not None and is_news(told["learned"], now["learned"]):
            self.update(batching=now)

    def update(self, **parts: Any) -> None:
        with self._lock:
            self._parts.update(parts)
            if self._epoch in (None, self._page.engine(self._place).count[Engine.EPOCH]):
                self._page.write_text(self._place, fitting(self._parts))

    def move(self, place: int) -> None:
        """On at another place, with all that has been said."""
        self._place = place
        self.update()


def batching(replica: Replica) -> dict[str, Any]:
    """What its batches cost and which size is best. Nothing that was only supposed: `learned_in` says where it is from."""
    slo_s = replica.manifest.slo_s
    facts: dict[str, Any] = {"rows_max": replica.rows_max, "rows_fit": replica.rows_fit, "slo_s": slo_s}
    curve = curve_in_service(replica)
    known = curve.known()
    if not known:
        return {**facts, "chosen_rows": 1, "why": UNMEASURED, "learned": [], "learned_in": "nothing"}
    learned = [{"rows": n, "seconds": s, "rows_per_s": round(n / s, 1)} for n, s in known]
    if not curve.guessed:
        chosen = best_rows(curve, replica.rows_max, slo_s or math.inf)
        return {**facts, "chosen_rows": chosen, "why": why(curve, chosen), "learned": learned, "learned_in": "warmup"}
    seen = rising(known)
    chosen = best_rows(seen, known[-1][0], slo_s or math.inf)
    words = why(seen, chosen) if replica.rows_max > 1 else f"one at a time: {1e3 * known[0][1]:.3g} ms each"
    return {**facts, "chosen_rows": chosen, "why": f"learned in service: {words}", "learned": learned, "learned_in": "service"}


def is_news(told: list[dict[str, Any]], now: list[dict[str, Any]]) -> bool:
    """Whether other sizes have been seen, or one costs clearly more or less."""
    if [step["rows"] for step in told] != [step["rows"] for step in now]:
        return True
    return any(abs(b["seconds"] - a["seconds"]) > NEWS * a["seconds"] for a, b in zip(told, now, strict=True))


def curve_in_service(replica: Replica) -> Curve:
    """The one measured in warm-up. Of a handler, and where there was none, that of the shape that runs most."""
    default = replica.cost.default
    if not default.guessed and replica.signature is not None:
        return default
    most = max(list(replica.cost.curves.values()), key=lambda curve: curve.batches, default=default)
    return most if most.batches else default


def why(curve: Curve, chosen: int) -> str:
    """One sentence on the batch size in force."""
    one, many = 1 / curve.predict(1), chosen / curve.predict(chosen)
    if chosen == 1:
        return f"batching does not help this model here: one row at a time already gives {one:.0f} rows/s"
    return f"{chosen} rows together give {many:.0f} rows/s, {many / one:.1f} times one at a time; fewer run when fewer wait"


def shapes_in_use(replica: Replica) -> list[ShapeUse]:
    """What has run so far, the most used first. Handlers take whole bodies, which have no shape."""
    if replica.signature is None:
        return []
    uses = []
    for key, curve in list(replica.cost.curves.items()):  # a copy in one step: the cycle may add a shape meanwhile
        runs = tuple((min(1 << i, replica.rows_max), n) for i, n in enumerate(curve.runs) if n)
        if runs and isinstance(key, tuple):
            uses.append(ShapeUse(key, runs))
    return sorted(uses, key=lambda use: -use.total)[:SHAPES_SHOWN]


def fitting(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The same with less in its lists, so that the rest is not lost with what does not fit."""
    data = {**parts, "warmup": dict(parts["warmup"])} if "warmup" in parts else dict(parts)
    while len(json.dumps(data, default=str)) > TEXT_BYTES - 16:
        lists = [(data, "shapes"), (data.get("warmup", {}), "notes"), (data.get("warmup", {}), "plan"), (data, "inputs"),
                 (data, "outputs")]  # fmt: skip
        longest = max(lists, key=lambda at: len(json.dumps(at[0].get(at[1], []), default=str)))
        where, name = longest
        if not isinstance(where.get(name), list) or not where[name]:
            return {"truncated": "what this engine has to say does not fit", "model": data.get("model")}
        where[name] = where[name][: len(where[name]) // 2]
    return data


def publish_shapes(explanation: Explanation, replica: Replica, stop: threading.Event) -> None:
    """A thread's work: tell what shapes are in use, when there is news, and of log lines that were lost."""
    while not stop.wait(PUBLISH_EVERY_S):
        explanation.shapes(replica)
        explanation.costs(replica)
        sink().tell_lost()
