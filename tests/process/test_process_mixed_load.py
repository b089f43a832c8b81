"""A thousand requests of all kinds at once, each with a payload of its own, against the model run directly."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tests.support import digits_model as model
from tests.support.tree import Tree
from tests.support.wire import request

REQUESTS, CONNECTIONS = 1000, 16
FORMATS = ("application/json", "application/x-npy", "text/csv", "application/jsonlines")


@dataclass(frozen=True)
class Question:
    sent: bytes
    answered_as: str
    want: model.Array


def questions(seed: int) -> list[Question]:
    """Mostly small requests, some of up to 300 rows; every row of all of them is different."""
    dice = random.Random(seed)
    sizes = [1 if dice.random() < 0.4 else dice.randint(2, 40) if dice.random() < 0.8 else dice.randint(41, 300) for _ in range(REQUESTS)]
    sizes[:2] = [1, 300]
    rows = model.some_rows(np.random.default_rng(seed), sum(sizes))
    wants = np.concatenate([model.answers(rows[i : i + 256]) for i in range(0, len(rows), 256)])
    made, at = [], 0
    for size in sizes:
        sent, answered = dice.choice(FORMATS), dice.choice(FORMATS)
        mine = slice(at, at + size)
        at += size
        made.append(Question(request(model.ENCODE[sent](rows[mine]), sent, answered), answered, wants[mine]))
    return made


def ask_all(tree: Tree, mine: list[Question], seed: int) -> list[str]:
    """On one connection, one to five requests at a time. Returns what was wrong."""
    dice = random.Random(seed)
    wrong, at = [], 0
    with tree.wire(60.0) as wire:
        while at < len(mine):
            window = mine[at : at + dice.randint(1, 5)]
            at += len(window)
            wire.send(b"".join(q.sent for q in window))
            for q in window:
                reply = wire.read()
                kind = reply.headers.get("content-type", "")
                if reply.status != 200 or kind != q.answered_as:
                    wrong.append(f"{reply.status} {kind}: {reply.body[:200]!r}")
                elif not model.close(model.decode(kind, reply.body), q.want):
                    wrong.append(f"wrong numbers for {len(q.want)} rows as {kind}")
    return wrong


def test_a_thousand_concurrent_mixed_requests_get_the_answers_of_the_model_itself(digits: Tree) -> None:
    seed = 20240607
    asked = questions(seed)
    before = digits.status()["fronts"][0]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        results = list(pool.map(lambda i: ask_all(digits, asked[i::CONNECTIONS], seed + i), range(CONNECTIONS)))
    assert [w for wrong in results for w in wrong] == [], f"seed {seed}"
    after = digits.status()
    assert after["fronts"][0]["ok"] - before["ok"] == REQUESTS
    assert after["fronts"][0]["errors"] == before["errors"]
    assert after["replicas"][0]["queue_rows"] == 0
