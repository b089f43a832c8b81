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

from evenkeel.serve.contract.model_order import ModelOrder
from evenkeel.serve.engine.check_report import print_costs, print_proof, print_samples, print_signature
from evenkeel.serve.engine.foreign import said
from evenkeel.serve.engine.leaving import Leaving
from evenkeel.serve.engine.models import replica_load
from evenkeel.serve.engine.models.startup import Ledger
from evenkeel.serve.engine.models.warmup import Warmup
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
        print_samples(loaded, warmup)
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


def _resident_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
