"""Loads a model as an engine does, runs its samples and prints what a user wants to know before serving it.

Started as `python -m evenkeel.serve.engine.model_check '<EngineSettings as JSON>' '<ModelOrder as JSON>'`, those that `evenkeel
serve` would start an engine with. Exit code 0: it would serve.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time

from evenkeel.serve.batching.cost import best_rows
from evenkeel.serve.contract.model_order import ModelOrder
from evenkeel.serve.engine.foreign import said
from evenkeel.serve.engine.leaving import Leaving
from evenkeel.serve.engine.models import explain, replica_load, samples
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.engine.models.startup import Ledger
from evenkeel.serve.engine.models.warmup import Warmup
from evenkeel.serve.engine.models.warmup_report import Report
from evenkeel.serve.errors import BadModel
from evenkeel.serve.settings import EngineSettings, parse


def main() -> int:
    settings, order = parse(EngineSettings, sys.argv[1]), ModelOrder.from_arguments(json.loads(sys.argv[2]))
    leaving = Leaving()
    code = checked(settings, order)
    leaving.begin(code)  # threads that the script has started are not waited for
    return code


def checked(settings: EngineSettings, order: ModelOrder) -> int:
    before_mb = _resident_mb()
    start_s = time.monotonic()
    try:
        loaded = replica_load.loaded(settings, order, Ledger())
        print(f"model     {loaded.manifest.name} version {loaded.manifest.version}, backend {loaded.manifest.backend}")
        for key, value in loaded.backend.describe().items():
            print(f"          {key}: {value}")
        print(f"loaded    in {time.monotonic() - start_s:.2f} s with {settings.threads} threads")
        print_signature(loaded)
        warmup = Warmup(loaded)
        run_samples(loaded, warmup)
        if loaded.signature is not None:
            print_costs(loaded, warmup)
        warmup.warm_rest()
        print_proof(warmup)
    except BadModel as e:
        print(f"NOT OK    {e.message}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # nobody reads on, as behind `| head`; Python would complain once more when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as e:
        print(f"NOT OK    this is not foreseen: {said(e)}", file=sys.stderr)
        return 1
    print(f"memory    {_resident_mb():.0f} MB in this process, {_resident_mb() - before_mb:.0f} MB of it for the model")
    was_called = loaded.signature is not None or loaded.manifest.samples
    print("OK        " + ("it would serve" if was_called else "it would start: loaded, but never called: give it a sample"))
    return 0


def print_signature(loaded: Replica) -> None:
    if loaded.signature is None:
        print("inputs    whole request bodies, decoded by the handler")
        return
    axis = loaded.signature.rows_axis
    for label, specs in (("inputs", loaded.signature.inputs), ("outputs", loaded.signature.outputs)):
        for spec in specs:
            print(f"{label:<9} {spec.describe(axis)}")
    if not axis:
        print("          the first axis is fixed: requests run one at a time, without batching")


def run_samples(loaded: Replica, warmup: Warmup) -> None:
    if not loaded.manifest.samples:
        print("samples   none in model.toml: add [[samples]] to warm up on real input and to check answers at every start")
    for sample in loaded.manifest.samples:
        answer = samples.run_sample(loaded, sample, warmup.report.golden)
        verdict = "matches" if sample.output else "ran"
        print(f"sample    {sample.input.name} {verdict}: {answer[:100].strip()}")


def print_costs(loaded: Replica, warmup: Warmup) -> None:
    if not warmup.shapes:
        return
    for rows, seconds in warmup.sweep():
        print(f"cost      {rows:>5} rows  {seconds * 1e3:10.3f} ms  {rows / seconds:12.1f} rows/s", flush=True)
    chosen = best_rows(loaded.cost.default, loaded.rows_max, loaded.manifest.slo_s or float("inf"))
    print(f"policy    up to {chosen} rows in a batch: {explain.why(loaded.cost.default, chosen)}")


def print_proof(warmup: Warmup) -> None:
    report = warmup.report
    settled = sum(e.converged for e in report.plan)
    shapes = len({e.key for e in report.plan})
    if report.plan:
        print(f"warm-up   {shapes} shapes, {len(report.plan)} batch sizes of them, {settled} settled to a steady latency")
        print(f"checks    {checks(report)}")
    for warning in report.warnings:
        print(f"warning   {warning}")
    for note in report.notes:
        print(f"          {note}")


def checks(report: Report) -> str:
    """What was compared with what; each check that fails has ended the run."""
    found = report.golden
    finite = found.passed - found.outputs - found.batches
    parts = (
        ("answers with expected outputs", found.outputs),
        ("batches with their rows", found.batches),
        ("answers for NaN", finite),
    )
    told = ", ".join(f"{count} {what}" for what, count in parts if count)
    return told or f"none, since {'its samples have no outputs' if report.samples else 'it has no samples'}"


def _resident_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
