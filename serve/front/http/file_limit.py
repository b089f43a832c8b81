"""How many connections a worker can have, with the files that it may open."""

from __future__ import annotations

import resource

from evenkeel.serve.contract.logline import log
from evenkeel.serve.front.http.connections import RESERVE

OTHERS = RESERVE + 256  # files beside those of connections: for /ping beyond the limit, engines, answers that come as files


def connections_possible(wanted: int) -> int:
    """As many as wanted, or as there can be files for: a refused accept helps nobody. Raises the limit where it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted + OTHERS and soft != resource.RLIM_INFINITY:
        soft = wanted + OTHERS if hard == resource.RLIM_INFINITY else min(hard, wanted + OTHERS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    possible = connections(soft) if soft != resource.RLIM_INFINITY else wanted
    if possible < wanted:
        log("few_files", f"{soft} open files are allowed (ulimit -n): connections are limited to {possible}")
    return min(possible, wanted)


def connections(files: int) -> int:
    """Of so many files in all. Where they are few, a third is for the rest. Pure."""
    return files - min(OTHERS, files // 3)
