"""The options of `evenkeel judge`: read, checked, and what `--plan` answers. Pure."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import NoReturn

from evenkeel.sidecar.rollout import plan
from evenkeel.sidecar.rollout.judge_errors import BadRule, CannotJudge
from evenkeel.sidecar.rollout.plan import PlannedTraffic
from evenkeel.sidecar.rollout.rule import Arm
from evenkeel.sidecar.rollout.spec import UNCHECKED, RolloutSpec, check_numbers

USUAL = RolloutSpec()
Group = argparse._ArgumentGroup  # of options, with a title in the help
# A few requests a minute: looks, blocks and bounds for a verdict within the day.
SMALL = {"window_s": 60.0, "block_s": 300.0, "max_minutes": 1440.0, "min_requests": 200, "budget": 0.01, "latency_budget": 0.02}


class Parser(argparse.ArgumentParser):
    """argparse leaves with 2, which means hold here."""

    def error(self, message: str) -> NoReturn:
        raise CannotJudge(f"{message} (see evenkeel judge --help)")


EPILOG = """examples:
  evenkeel judge --candidate localhost:8081                  against the container that runs on this machine
  evenkeel judge --baseline b1:8080 b2:8080 --candidate c1:8080 c2:8080
  evenkeel judge --replay rollout-20261123T213040Z.jsonl     the verdict of a log again
  evenkeel judge --plan 200,0.1                              how long each verdict takes at 200 requests a second

exit codes: 0 promote, 1 roll back, 2 hold, 3 could not judge"""


def parser() -> Parser:
    p = Parser(prog="evenkeel judge",
               usage="evenkeel judge --candidate URL ... [--baseline URL ... | --production URL ...] [options]",
               description="Compare a candidate with a baseline: promote, hold or roll back.", epilog=EPILOG,
               formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)  # fmt: skip
    _add_arms(p.add_argument_group("whom to compare"))
    _add_rule(p.add_argument_group("when it is good enough"))
    _add_output(p.add_argument_group("what is written"))
    return p


def _add_arms(arms: Group) -> None:
    arms.add_argument("--port", type=int, help="the container on this machine that serves now, instead of --production")
    arms.add_argument("--candidate", nargs="+", metavar="URL", default=[], help="instances of the new version; /metrics is added")
    arms.add_argument("--baseline", nargs="+", metavar="URL", default=[], help="instances of the old version, freshly started")
    arms.add_argument("--production", nargs="+", metavar="URL", default=[], help="instances that serve now")
    arms.add_argument(
        "--prometheus", metavar="URL", help="ask this server; the arms are then label selectors: 'track=\"canary\"'"
    )
    arms.add_argument("--instance-label", default="instance", help="what names an instance in Prometheus (instance)")
    arms.add_argument("--model", default="", help="only this model's series")
    arms.add_argument("--replay", metavar="FILE", help="compute the verdict of a replay log again")
    arms.add_argument("--split", metavar="ARM=W,ARM=W", help="intended weights (baseline=1,candidate=1), or: unchecked")
    arms.add_argument("--id", default="", help="name of this rollout (rollout-<time>)")


def _add_rule(rule: Group) -> None:
    rule.add_argument("--window-s", type=float, default=USUAL.window_s, help="seconds between looks (10)")
    rule.add_argument(
        "--block-s", type=float, default=USUAL.block_s, help="seconds a block of the sign witness (30; 60 if faults are bursty)"
    )
    rule.add_argument("--min-minutes", type=float, default=USUAL.min_minutes, help="no promotion earlier (10)")
    rule.add_argument("--max-minutes", type=float, default=USUAL.max_minutes, help="the verdict comes no later (30)")
    rule.add_argument("--ready-minutes", type=float, default=USUAL.ready_minutes,
                   help="a candidate that is not ready by then is rolled back (10)")  # fmt: skip
    rule.add_argument("--min-requests", type=int, default=USUAL.min_requests, help="no promotion with fewer in an arm (1000)")
    rule.add_argument(
        "--budget", type=float, default=USUAL.budget, help="an error rate that is always good enough (0.001; 0: none)"
    )
    rule.add_argument(
        "--latency-budget", type=float, default=USUAL.latency_budget, help="the same for answers above an edge (0.002; 0: none)"
    )
    rule.add_argument("--margin", type=float, help="no rollback at a ratio up to this (1.2; 1.25 without a baseline)")
    rule.add_argument("--bad-ratio", type=float, default=USUAL.bad_ratio, help="no promotion at a ratio from this on (2)")
    rule.add_argument("--edge", type=float, nargs="+", default=[], metavar="S", help="judge answers slower than this, seconds")
    rule.add_argument(
        "--objective-s", type=float, default=USUAL.objective_s, help="the latency objective: judge answers slower than it too"
    )
    rule.add_argument("--slo", default=USUAL.slo, metavar="errors=1%%,p99=300ms",
                      help="roll back when the candidate misses one of these, whatever the reference does")  # fmt: skip
    rule.add_argument("--strata", default=USUAL.strata, metavar="LABEL",
                      help="judge the requests of each value of this label apart, too: route")  # fmt: skip
    rule.add_argument("--metric", action="append", default=[], metavar="NAME=A/B",
                      help="a metric of your own, once for each: refunds=shop_refunds_total/shop_orders_total or "
                      "slow=shop_basket_seconds>0.5; ;better=more, ;weight=2, ;budget=1%% may follow")  # fmt: skip
    rule.add_argument(
        "--initial-delay-s", type=float, default=USUAL.initial_delay_s, help="the first seconds count for nobody (0)"
    )
    rule.add_argument(
        "--warm-up-s",
        type=float,
        default=USUAL.warm_up_s,
        help="slow answers count once the candidate's own latency has settled, at the latest after so long (300)",
    )
    rule.add_argument("--small", action="store_true",
                      help="for a few requests a minute: looks every minute for a day, budgets of 1 and 2 %%")  # fmt: skip
    rule.add_argument("--plan", metavar="RPS[,SHARE[,ERRORS]]",
                      help="say how long each verdict takes at so many requests a second, the candidate's share of them (0.5) "
                      "and the error rate of today (0.001), and end")  # fmt: skip
    rule.add_argument("--no-latency", action="store_true", help="judge errors only")
    rule.add_argument("--at-end", choices=("hold", "rollback"), default="hold", help="the verdict when time is up (hold)")


def _add_output(output: Group) -> None:
    output.add_argument("--log", metavar="FILE", help="the replay log (<id>.jsonl)")
    output.add_argument("--plot", metavar="FILE", help="the picture (<id>.svg)")
    output.add_argument("--listen", metavar="HOST:PORT", help="answer controllers there, and go on until stopped")
    output.add_argument("--json", action="store_true", help="print the decision record instead of text")
    output.add_argument("--quiet", action="store_true", help="print only the verdict")
    output.add_argument("--only-check", action="store_true", help=argparse.SUPPRESS)  # the words, for who starts the judge


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """Raises CannotJudge."""
    reader = parser()
    if "--small" in argv:
        reader.set_defaults(**SMALL)
    args, unknown = reader.parse_known_args(argv)
    if unknown:
        known = [option for action in reader._actions for option in action.option_strings]
        near = difflib.get_close_matches(unknown[0].partition("=")[0], known, 1, 0.7)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise CannotJudge(f"{unknown[0]} is no option{meant} (see evenkeel judge --help)")
    return args


def order_of(args: argparse.Namespace, id_else: str) -> RolloutSpec:
    """Raises BadRule."""
    return RolloutSpec(
        candidate=tuple(args.candidate), baseline=tuple(args.baseline), production=tuple(args.production),
        id=args.id or id_else, model=args.model, split=split_of(args.split),
        split_checked=args.split != UNCHECKED, window_s=args.window_s, block_s=args.block_s, min_minutes=args.min_minutes,
        max_minutes=args.max_minutes, ready_minutes=args.ready_minutes,
        min_requests=args.min_requests, budget=args.budget, latency_budget=args.latency_budget,
        margin=args.margin, bad_ratio=args.bad_ratio, edge=tuple(args.edge), objective_s=args.objective_s,
        slo=args.slo, strata=args.strata, metric=tuple(args.metric), initial_delay_s=args.initial_delay_s,
        warm_up_s=args.warm_up_s, no_latency=args.no_latency, at_end=args.at_end,
    )  # fmt: skip


def planned(args: argparse.Namespace) -> str:
    """What --plan says. Without arms it plans for a baseline."""
    order = replace(order_of(args, "plan"), baseline=tuple(args.baseline) or (() if args.production else ("baseline",)))
    check_numbers(order)
    given = args.plan.split(",")
    try:
        rps, share, rate = (float(given[i]) if i < len(given) else usual for i, usual in enumerate((0.0, 0.5, 0.001)))
    except ValueError as e:
        raise BadRule(f"--plan {args.plan}: expected numbers, such as 200,0.1,0.001") from e
    if len(given) > 3 or not (0 < rps < inf and 0 < share < 1 and 0 <= rate < 1):
        raise BadRule(f"--plan {args.plan}: expected requests a second, a share below 1 and an error rate below 1")
    return plan.text(order.rule(), PlannedTraffic(rps * share, rps * (1 - share), rate))


def split_of(text: str | None) -> dict[Arm, float] | None:
    if text is None or text == UNCHECKED:
        return None
    try:
        return {Arm(arm.strip()): float(weight) for arm, _, weight in (part.partition("=") for part in text.split(","))}
    except ValueError as e:
        raise BadRule(f"--split {text}: expected something like baseline=1,candidate=1") from e
