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
    CANDIDATE_GONE = "candidate_gone"
    CANDIDATE_STALLED = "candidate_stalled"
    CANDIDATE_REFUSES = "candidate_refuses"
    OBJECTIVE_MISSED = "objective_missed"
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
    ARMS_MIXED = "arms_mixed"
    SAMPLE_RATIO = "sample_ratio"
    SPLIT_UNKNOWN = "split_unknown"
    CLIENT_ERRORS_DIFFER = "client_errors_differ"
    ENVIRONMENT_UNSTABLE = "environment_unstable"
    LATENCY_NOT_MEASURED = "latency_not_measured"
    COUNTERS_FELL = "counters_fell"
    OBJECTIVE_IN_DOUBT = "objective_in_doubt"
    MIX_DIFFERS = "mix_differs"
    METRIC_NOT_MEASURED = "metric_not_measured"
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
    LEFT_OUT = "left_out"
    OTHER_EDGES = "other_edges"


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
        _R, "both witnesses say that the metric is worse than `margin` times the reference's, and not by one burst",
        "roll back, read its log"
    ),
    RolloutReason.CANDIDATE_FAR_WORSE: ReasonEntry(
        _R, "fast path: in three windows in a row most answers fail, or take ten times as long, and few of the reference's do "
        "(six windows for one instance of several)", "roll back at once"
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
    RolloutReason.CANDIDATE_GONE: ReasonEntry(
        _R, "no candidate instance has answered for 45 s (one of several: 120 s), none came in its place, the reference is there",
        "roll back; look for the machine, and why it ended"),
    RolloutReason.CANDIDATE_STALLED: ReasonEntry(
        _R, "the candidate answered and does not any more, while its share of the requests goes on to come",
        "roll back; read its log"),
    RolloutReason.CANDIDATE_REFUSES: ReasonEntry(
        _R, "in three windows in a row most answers of the candidate are 4xx, and few of the reference's",
        "roll back; find out what it does not take"),
    RolloutReason.OBJECTIVE_MISSED: ReasonEntry(
        _R, "more requests than the objective (`--slo`) allows fail or are slow, beyond doubt, whatever the reference does",
        "roll back"),
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
        _H, "an instance did not answer the last scrape", "wait; if it stays, find out why"
    ),
    RolloutReason.CANDIDATE_RESTARTED: ReasonEntry(
        _H, "a candidate instance or process restarted in this stage: errors may have been lost", "find out why; start again"
    ),
    RolloutReason.CANDIDATE_NOT_READY: ReasonEntry(_H, "a candidate instance says that it is not ready", "wait; look at /status"),
    RolloutReason.ARMS_MIXED: ReasonEntry(
        _H, "an instance left one arm and came in another, so its counts belong to neither",
        "correct the selectors or the labels; start again"),
    RolloutReason.SAMPLE_RATIO: ReasonEntry(
        _H, "the candidate's share of the requests is off by more than 5 % of what was declared, so the arms may not be alike",
        "correct the routing, or declare the split that there is"
    ),
    RolloutReason.SPLIT_UNKNOWN: ReasonEntry(_H, "no intended split is known, so it cannot be checked", "give `--split`"),
    RolloutReason.CLIENT_ERRORS_DIFFER: ReasonEntry(
        _H, "the share of 4xx differs between the arms beyond doubt, so they do not get, or do not take, the same requests",
        "find out whether the candidate refuses what the reference takes",
    ),
    RolloutReason.ENVIRONMENT_UNSTABLE: ReasonEntry(
        _H, "the reference is far from its own past, now or too often, or near saturation; or baseline and production, the same "
        "version, differ; or both arms show the same fault", "find what troubles both; such blocks count for nobody"
    ),
    RolloutReason.LATENCY_NOT_MEASURED: ReasonEntry(
        _H, "the reference has too few latency observations to choose edges from, or instances' histograms have other edges",
        "wait, or give `--edge`, or `--no-latency`"
    ),
    RolloutReason.COUNTERS_FELL: ReasonEntry(
        _H, "an instance's counters fell by less than half, which no restart does: several processes answer at its address, or "
        "somebody sets them", "name each instance by an address of its own; start again"
    ),
    RolloutReason.OBJECTIVE_IN_DOUBT: ReasonEntry(
        _H, "the candidate's share of bad requests is above the objective (`--slo`), not yet beyond doubt",
        "wait; look at the errors"
    ),
    RolloutReason.MIX_DIFFERS: ReasonEntry(
        _H, "the arms do not get the same kinds of requests, by the label (`--strata`, else the model) or by the rows of a "
        "request, so a difference may be theirs", "correct the routing; until then only what is worse within one kind rolls back"
    ),
    RolloutReason.METRIC_NOT_MEASURED: ReasonEntry(
        _H, "a metric of your own cannot be counted: an instance does not show what it is made of, its histogram has no bucket "
        "at the edge, or nobody has shown its events yet", "correct `--metric`, or wait for the first event"
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
    Flag.DESIGN_EFFECT_ASSUMED: "only in logs of the first rule: clumping of errors could not be measured yet; 2 is assumed",
    Flag.COUNTER_RESET: "an instance's counters began anew",
    Flag.GAP: "an instance did not answer at least once; the others were compared",
    Flag.JOINED: "an instance joined after the start",
    Flag.CLIENT_ERRORS_SHIFTED: "the share of 4xx differs between the arms: the mix of requests, or a stricter candidate",
    Flag.SHED: "requests were refused with 429",
    Flag.READINESS_UNKNOWN: "an instance does not say whether it is ready",
    Flag.LEFT_OUT: "blocks in which the reference was far from its own past count for nobody",
    Flag.OTHER_EDGES: "an instance's latency histogram has other edges than the reference's, so its latency is not compared",
}


def table() -> str:
    """The reasons and flags as Markdown, for the docs."""
    rows = [f"| {e.verdict} | `{r}` | {e.meaning} | {e.todo} |" for r, e in TABLE.items()]
    flags = [f"| `{f}` | {words} |" for f, words in FLAGS.items()]
    head, flag_head = "| verdict | reason | meaning | what to do |\n|---|---|---|---|", "| flag | meaning |\n|---|---|"
    return "\n".join([head, *rows, "", flag_head, *flags])


if __name__ == "__main__":
    print(table())
