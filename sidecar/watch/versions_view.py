"""Which versions are on disk, which serves, loads or stands by, and why the last ones failed: what `/models` and `/status` say.

Reads the folder's names and the supervisor's text on the status page; decides nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evenkeel.serve.contract import catalogue, inference_protocol
from evenkeel.serve.contract.status_page import PLAN_TEXT, StatusPage
from evenkeel.serve.errors import BadModel


def shown(page: StatusPage, unix_at_zero_s: float) -> dict[str, Any]:
    """What is on disk now, and what the supervisor says of each version. `unix_at_zero_s` turns its moments into Unix time."""
    plan = page.read_text(PLAN_TEXT)
    swap, model = plan.get("swap") or {}, plan.get("model") or {}
    revisions = {e["version"] or model.get("version", ""): e for e in swap.get("revisions", [])}
    problem, on_disk_now = on_disk(plan)
    names = [*on_disk_now, *(v for v in revisions if v not in on_disk_now)]
    serving = str(model.get("version", ""))
    return {
        "name": model.get("name", ""), "serving": serving, "wanted": swap.get("wanted") or serving,
        "phase": swap.get("phase", ""), "how": swap.get("how", "") if swap.get("phase", "steady") != "steady" else "",
        "versioned": bool(swap.get("wanted")), "problem": problem,
        "versions": [_version_shown(page, v, v in on_disk_now or not swap.get("wanted"), revisions.get(v), swap, unix_at_zero_s)
                     for v in names],
        "failures": [{**f, "at_s": round(unix_at_zero_s + f["at_s"], 3)} for f in swap.get("failures", [])],
    }  # fmt: skip


def _version_shown(
    page: StatusPage, version: str, on_disk: bool, revision: dict[str, Any] | None, swap: dict[str, Any], zero_s: float
) -> dict[str, Any]:
    if revision is None:
        return {"version": version, "on_disk": on_disk, "phase": "on disk", "warm": False, "sha256": None, "places": []}
    engines = [e for e in inference_protocol.served(page) if e.place in revision["places"]]
    until_s = revision["since_s"] + swap.get("window_s", 0.0) if revision["state"] == "standby" else None
    return {
        "version": version, "on_disk": on_disk, "phase": revision["state"],
        "warm": len(engines) == len(revision["places"]) and all(e.warm for e in engines),
        "sha256": next((e.model.get("sha256") for e in engines), None), "places": revision["places"],
        **({"until": round(zero_s + until_s, 3)} if until_s is not None else {}),
    }  # fmt: skip


def on_disk(plan: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """What is wrong with the folder, if anything, and the versions in it."""
    try:
        return "", catalogue.read(Path(plan.get("model_dir", ""))).versions
    except BadModel as e:
        return e.message, ()
