"""Does the system allow as many threads as we need? A limit on processes (of the container, or `ulimit -u`) counts threads too.
What meets it later fails in strange ways: a worker that cannot be forked is tried again for ever."""

from __future__ import annotations

import threading

from evenkeel.container.plan.processes import ProcessPlan
from evenkeel.serve.errors import BadSetting

GUNICORN = 1
FRONT = 2
SIDECAR = 4
ENGINE = 2  # beside those of its framework


def needed(plan: ProcessPlan) -> int:
    """At least, once all run. A model's own code may need more."""
    engines = plan.engines * (ENGINE + plan.threads - 1)
    return GUNICORN + FRONT * plan.fronts + SIDECAR + engines


def check(wanted: int) -> None:
    """Raises BadSetting when so many cannot be had beside those that run."""
    allowed = possible(wanted)
    if allowed < wanted:
        raise BadSetting(f"at least {wanted} more processes and threads are needed here, and {allowed} are allowed: raise the "
                         "limit (--pids-limit of the container, ulimit -u), or set EVENKEEL_THREADS or EVENKEEL_REPLICAS "
                         "lower")  # fmt: skip


def possible(wanted: int) -> int:
    """How many threads can live at once, up to `wanted`: so many are started, and end at once."""
    enough, started = threading.Event(), list[threading.Thread]()
    try:
        for _ in range(wanted):
            thread = threading.Thread(target=enough.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:  # "can't start new thread"
        pass
    finally:
        enough.set()
        for thread in started:
            thread.join()
    return len(started)
