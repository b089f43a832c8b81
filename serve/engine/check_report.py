"""What a check prints of a model that is loaded: its inputs and outputs, its samples, what batches cost, what was proven."""

from __future__ import annotations

from evenkeel.serve.batching.cost import best_rows
from evenkeel.serve.engine.models import explain, samples
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.engine.models.warmup import Warmup
from evenkeel.serve.engine.models.warmup_report import Report


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


def print_samples(loaded: Replica, warmup: Warmup) -> None:
    """Each with the start of its answer, as it is run."""
    if not loaded.manifest.samples:
        print("samples   none in model.toml: add [[samples]] to warm up on real input and to check answers at every start")
    for sample in loaded.manifest.samples:
        answer = samples.run_sample(loaded, sample, warmup.report.golden)
        verdict = "matches" if sample.output else "ran"
        print(f"sample    {sample.input.name} {verdict}: {answer[:100].strip()}")


def print_costs(loaded: Replica, warmup: Warmup) -> None:
    """Of each batch size, as it is measured."""
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
