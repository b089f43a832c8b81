"""What other controllers ask and how the decision answers them: Argo Rollouts' web metric, Flagger's webhooks. Pure.

Anyone who serves HTTP hands method, path and the record to `answer` and sends what comes back. Anything but a clear yes is a no:
a gate that cannot be answered stays shut, and a rollback that nobody wants is not begun.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evenkeel.sidecar.rollout.reasons import RolloutVerdict

DECISION = "/rollout/decision"
FLAGGER = "/rollout/flagger/"
# Flagger's hooks wait while the answer is not 200, but for `rollback`, which acts when it is.
# https://docs.flagger.app/usage/webhooks
YES: Mapping[str, RolloutVerdict] = {
    "confirm-traffic-increase": RolloutVerdict.PROMOTE,
    "confirm-promotion": RolloutVerdict.PROMOTE,
    "rollback": RolloutVerdict.ROLLBACK,
}
NOT_YET = 403  # as the gates of Flagger's own load tester


@dataclass(frozen=True, slots=True)
class ControllerAnswer:
    status: int
    body: dict[str, Any]


def answer(method: str, path: str, record: Mapping[str, Any]) -> ControllerAnswer:
    """The answer to one request, from the decision record as it stands."""
    path = path.partition("?")[0].rstrip("/")
    if path == DECISION:
        return ControllerAnswer(200, dict(record)) if method == "GET" else _refused(405, f"{DECISION} is read with GET")
    hook = path.removeprefix(FLAGGER)
    if not path.startswith(FLAGGER) or hook not in YES:
        return _refused(404, f"there are {DECISION} and {', '.join(FLAGGER + h for h in YES)}")
    if method != "POST":
        return _refused(405, f"{path} is called with POST")
    return ControllerAnswer(200 if record["decision"] == YES[hook] else NOT_YET, short(record))


def short(record: Mapping[str, Any]) -> dict[str, Any]:
    """Flagger puts a refusal's body into its events: a line, not a page."""
    return {"decision": record["decision"], "reasons": [reason["code"] for reason in record["reasons"]]}


def _refused(status: int, words: str) -> ControllerAnswer:
    code = {404: "not_found", 405: "method_not_allowed"}[status]
    return ControllerAnswer(status, {"error": {"code": code, "message": words}})
