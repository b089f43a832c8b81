"""The rollout being judged, as /status shows it to people: verdict, why, since when, the arms, the evidence. Pure.

`/rollout/decision` is the record for programs; this is what of it a page or a terminal shows, with the evidence over time.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from typing import Any

from evenkeel.sidecar.rollout.counters import Key
from evenkeel.sidecar.rollout.rule import Arm
from evenkeel.sidecar.rollout.spec import RolloutSpec

COPIED = ("rollout", "decision", "final", "reasons", "stage", "windows", "elapsed_s", "flags")


def shown(order: RolloutSpec | None, record: Mapping[str, Any], trail: Mapping[str, Any]) -> dict[str, Any]:
    """`order` None: nothing is known any more of what a predecessor was judging."""
    judge = record["judge"]
    return {
        **{name: record[name] for name in COPIED},
        "phase": judge["phase"],
        "max_s": None if order is None else order.max_minutes * 60,
        "arms": {} if order is None else _arms(order, record["signals"], judge["missing"]),
        "metrics": {name: _metric(m) for name, m in record["metrics"].items()},
        "evidence": dict(trail),
    }


def _arms(order: RolloutSpec, signals: Mapping[str, Any], missing: Mapping[str, str]) -> dict[str, Any]:
    return {arm.value: _arm(arm, addresses, signals, missing) for arm, addresses in order.arms().items()}


def _arm(arm: Arm, addresses: tuple[str, ...], signals: Mapping[str, Any], missing: Mapping[str, str]) -> dict[str, Any]:
    names = [instance(address) for address in addresses]
    missing_here = {name: why for name in names if (why := missing.get(str(Key(arm, name)))) is not None}
    counted = signals.get(arm.value, {"requests": 0, "client_errors": 0, "shed": 0})
    return {"instances": names, "missing": missing_here, **counted}


def instance(address: str) -> str:
    """Host and port, as the record names it."""
    return urllib.parse.urlsplit(address if "://" in address else f"//{address}").netloc


def _metric(m: Mapping[str, Any]) -> dict[str, Any]:
    good = max(m["not_worse_e"], m["within_budget_e"] or 0.0)
    kept = ("candidate", "reference", "ratio", "count_e", "sign_e", "rollback_at", "promote_at")
    return {**{name: m[name] for name in kept}, "good_e": good}
