"""Which ways requests went, as the status page has them: at each step of a request that has several, how many took which.

What is fast goes one of them: where its share falls, callers send something else, or a change of ours has lost it. A worker's own
requests (warm-up, self-check) are among them. What was refused before a step is not counted at it.
"""

from __future__ import annotations

from evenkeel.serve.contract.status_page import Engine, Front, Main, StatusPage

FRONT_WAYS = {
    ("head", "parsed"): Front.ARRIVED_PARSED,
    ("decode", "rows"): Front.IN_ROWS,
    ("decode", "one"): Front.IN_TENSORS,
    ("decode", "thread"): Front.IN_THREAD,
    ("decode", "handler"): Front.IN_BODIES,
    ("answer", "parts"): Front.IN_PARTS,
}
ENGINE_WAYS = {
    ("queue", "skipped"): Engine.TAKEN_SINGLE,
    ("queue", "table"): Engine.TAKEN_TABLE,
    ("queue", "one"): Engine.TAKEN_QUEUE,
}


def request_ways(page: StatusPage) -> dict[tuple[str, str], int]:
    """Requests by step and way, over all processes and lives."""
    main = page.main.count
    fronts = [page.front(i).count for i in range(main[Main.FRONTS])]
    engines = [page.engine(i).count for i in range(main[Main.ENGINES])]
    counts = {way: sum(c[cell] for c in fronts) for way, cell in FRONT_WAYS.items()}
    counts |= {way: sum(c[cell] for c in engines) for way, cell in ENGINE_WAYS.items()}
    # One that was parsed is counted before all that came in its turn are: until then there is one more.
    known = sum(c[Front.ARRIVED] for c in fronts) - counts["head", "parsed"]
    return {("head", "known"): max(0, known), **counts}
