"""Every reason a verdict can have: a stable code, what it means, what to do. The table in docs/rollouts.md is this one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class RolloutVerdict(StrEnum):
    PROMOTE = "promote"
    HOLD = "hold"
    ROLLBACK = "rollback"


class RolloutReason(StrEnum):
    NOT_WORSE = "not_worse"
    WITHIN_BUDGET = "within_budget"
    CANDIDATE_WORSE = "candidate_worse"
    CANDIDATE_FAR_WORSE = "candidate_far_worse"
    CRASH_LOOP = "crash_loop"
    WARM_UP_FAILED = "warm_up_failed"
    GOLDEN_CHECK_FAILED = "golden_check_failed"
    DEVICE_FAULT = "device_fault"
    OUT_OF_MEMORY = "out_of_memory"
    CANDIDATE_FAILED = "candidate_failed"
    READINESS_LOST = "readiness_lost"
    NEVER_READY = "never_ready"
    TIME_IS_UP = "time_is_up"
    NOT_YET_PROVEN = "not_yet_proven"
    ONE_WITNESS_ONLY = "one_witness_only"
    TOO_FEW_REQUESTS = "too_few_requests"
    TOO_SOON = "too_soon"
    NO_DATA = "no_data"
    DATA_GAP = "data_gap"
    CANDIDATE_RESTARTED = "candidate_restarted"
    CANDIDATE_NOT_READY = "candidate_not_ready"
    SAMPLE_RATIO = "sample_ratio"
    SPLIT_UNKNOWN = "split_unknown"
    CLIENT_ERRORS_DIFFER = "client_errors_differ"
    ENVIRONMENT_UNSTABLE = "environment_unstable"
    LATENCY_NOT_MEASURED = "latency_not_measured"
    JUDGE_FAILED = "judge_failed"
    JUDGE_LOST = "judge_lost"


class Flag(StrEnum):
    """What to know about the data. A flag changes no verdict by itself."""

    NO_BASELINE = "no_baseline"
    SPLIT_UNCHECKED = "split_unchecked"
    ONE_INSTANCE = "one_instance"
    DESIGN_EFFECT_ASSUMED = "design_effect_assumed"
    COUNTER_RESET = "counter_reset"
    GAP = "gap"
    JOINED = "joined"
    CLIENT_ERRORS_SHIFTED = "client_errors_shifted"
    SHED = "shed"
    READINESS_UNKNOWN = "readiness_unknown"


@dataclass(frozen=True, slots=True)
class ReasonEntry:
    verdict: RolloutVerdict
    meaning: str
    todo: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason and what it is about: a metric, an arm or an instance. `words` are for people and may change."""

    reason: RolloutReason
    about: str
    words: str

    def to_json(self) -> dict[str, str]:
        return {"code": self.reason.value, "about": self.about, "words": self.words}


_P, _H, _R = RolloutVerdict.PROMOTE, RolloutVerdict.HOLD, RolloutVerdict.ROLLBACK
TABLE: dict[RolloutReason, ReasonEntry] = {
    RolloutReason.NOT_WORSE: ReasonEntry(_P, "the metric's ratio is shown to be below `bad_ratio`", "go on"),
    RolloutReason.WITHIN_BUDGET: ReasonEntry(_P, "the candidate's rate of bad events is shown to be below the budget", "go on"),
    RolloutReason.CANDIDATE_WORSE: ReasonEntry(
        _R, "both witnesses say that the metric is worse than `margin` times the reference's", "roll back, read its log"
    ),
    RolloutReason.CANDIDATE_FAR_WORSE: ReasonEntry(
        _R, "fast path: more than three times the errors, beyond doubt, at 5 % of requests or more", "roll back at once"
    ),
    RolloutReason.CRASH_LOOP: ReasonEntry(
        _R, "a candidate instance restarted `crashes_max` times, no reference instance did", "roll back, read why it died"
    ),
    RolloutReason.WARM_UP_FAILED: ReasonEntry(
        _R, "a candidate instance is FAILED and never was ready", "roll back; `evenkeel check` shows the cause"
    ),
    RolloutReason.GOLDEN_CHECK_FAILED: ReasonEntry(
        _R, "a golden sample gave a wrong answer, where that is told; else `warm_up_failed`", "roll back; compare model, samples"
    ),
    RolloutReason.DEVICE_FAULT: ReasonEntry(
        _R, "a fatal device error on the candidate only", "roll back; if it comes again elsewhere, change the machine"
    ),
    RolloutReason.OUT_OF_MEMORY: ReasonEntry(
        _R, "a candidate process ran out of memory", "roll back; smaller batches or a larger instance"),
    RolloutReason.CANDIDATE_FAILED: ReasonEntry(
        _R, "a candidate instance that had been ready is FAILED", "roll back, read its log"),
    RolloutReason.READINESS_LOST: ReasonEntry(
        _R, "a candidate instance lost readiness for longer than the reference ever did", "roll back, look at /status"
    ),
    RolloutReason.NEVER_READY: ReasonEntry(
        _R, "a candidate instance did not once say that it is ready within `ready_s_max`, while the reference was there",
        "roll back; its log says why it does not start, or its address is wrong",
    ),
    RolloutReason.TIME_IS_UP: ReasonEntry(
        _H, "`max_s` passed without proof either way (a rollback with `at_end=rollback`)", "decide by hand or allow more time"
    ),
    RolloutReason.NOT_YET_PROVEN: ReasonEntry(
        _H, "the metric has shown neither that it is worse nor that it is good enough", "wait; more traffic helps"
    ),
    RolloutReason.ONE_WITNESS_ONLY: ReasonEntry(
        _H, "one witness says worse, the other does not yet: a burst, or too few blocks", "wait; look at the errors"
    ),
    RolloutReason.TOO_FEW_REQUESTS: ReasonEntry(
        _H, "an arm has had fewer than `requests_min` requests in this stage", "wait, or send more"),
    RolloutReason.TOO_SOON: ReasonEntry(_H, "this stage is younger than `stage_s_min`", "wait"),
    RolloutReason.NO_DATA: ReasonEntry(
        _H, "an arm had no request in the last three windows, or no data at all", "look at routing and at the scrape"
    ),
    RolloutReason.DATA_GAP: ReasonEntry(
        _H, "an instance did not answer a scrape in this stage", "find out why; then start the stage or the judge again"
    ),
    RolloutReason.CANDIDATE_RESTARTED: ReasonEntry(
        _H, "a candidate instance or process restarted in this stage: errors may have been lost", "find out why; start again"
    ),
    RolloutReason.CANDIDATE_NOT_READY: ReasonEntry(_H, "a candidate instance says that it is not ready", "wait; look at /status"),
    RolloutReason.SAMPLE_RATIO: ReasonEntry(
        _H, "the arms did not get the traffic that the split intends, so they may not be alike", "correct the routing; restart"
    ),
    RolloutReason.SPLIT_UNKNOWN: ReasonEntry(_H, "no intended split is known, so it cannot be checked", "give `--split`"),
    RolloutReason.CLIENT_ERRORS_DIFFER: ReasonEntry(
        _H, "the share of 4xx differs between the arms beyond doubt, so they do not get, or do not take, the same requests",
        "find out whether the candidate refuses what the reference takes",
    ),
    RolloutReason.ENVIRONMENT_UNSTABLE: ReasonEntry(
        _H, "baseline and production, the same version, differ; or both arms show the same fault", "find what else differs"
    ),
    RolloutReason.LATENCY_NOT_MEASURED: ReasonEntry(
        _H, "the reference has too few latency observations to choose edges from", "wait, or give `--edge`, or `--no-latency`"
    ),
    RolloutReason.JUDGE_FAILED: ReasonEntry(
        _H, "the judge hit an error of ours at its last look; what it knew before still holds, and it looks again",
        "wait for the next look; if it stays, report what the log says",
    ),
    RolloutReason.JUDGE_LOST: ReasonEntry(
        _H, "the sidecar that judged was replaced and what it had saved cannot be read", "name the rollout again"
    ),
}  # fmt: skip

FLAGS: dict[Flag, str] = {
    Flag.NO_BASELINE: "compared with production, which has been running for longer; the margin is wider",
    Flag.SPLIT_UNCHECKED: "the split of traffic was not checked, as was asked for",
    Flag.ONE_INSTANCE: "an arm has one instance: its own oddity cannot be told from the version's",
    Flag.DESIGN_EFFECT_ASSUMED: "clumping of errors could not be measured yet; 2 is assumed",
    Flag.COUNTER_RESET: "an instance's counters began anew",
    Flag.GAP: "at least one window was left out because an instance did not answer",
    Flag.JOINED: "an instance joined after the start",
    Flag.CLIENT_ERRORS_SHIFTED: "the share of 4xx differs between the arms: the mix of requests, or a stricter candidate",
    Flag.SHED: "requests were refused with 429",
    Flag.READINESS_UNKNOWN: "an instance does not say whether it is ready",
}


def table() -> str:
    """The reasons and flags as Markdown, for the docs."""
    rows = [f"| {e.verdict} | `{r}` | {e.meaning} | {e.todo} |" for r, e in TABLE.items()]
    flags = [f"| `{f}` | {words} |" for f, words in FLAGS.items()]
    head, flag_head = "| verdict | reason | meaning | what to do |\n|---|---|---|---|", "| flag | meaning |\n|---|---|"
    return "\n".join([head, *rows, "", flag_head, *flags])


if __name__ == "__main__":
    print(table())
