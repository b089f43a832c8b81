"""A thousand requests of all kinds at once, each with a payload of its own, against the model run directly."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

from tests.support import digits_model as model
from tests.support.tree import Tree, eventually, serving
from tests.support.wire import request

REQUESTS, CONNECTIONS, SEED = 1000, 16, 20240607
FORMATS = ("application/json", "application/x-npy", "text/csv", "application/jsonlines")


@dataclass(frozen=True)
class Question:
    sent: bytes
    answered_as: str
    want: model.Array


def questions(seed: int) -> list[Question]:
    """Mostly small requests, some of up to 300 rows; every row of all of them is different."""
    dice = random.Random(seed)
    sizes = [dice.choice([1, 1, 1, dice.randint(2, 40), dice.randint(2, 40), dice.randint(41, 300)]) for _ in range(REQUESTS)]
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


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    return questions(SEED)


def ask_from_everywhere(tree: Tree, asked: list[Question]) -> None:
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        results = list(pool.map(lambda i: ask_all(tree, asked[i::CONNECTIONS], SEED + i), range(CONNECTIONS)))
    wrong = [w for found in results for w in found]
    assert wrong == [], f"seed {SEED}: {len(wrong)} of {len(asked)}"


def test_a_thousand_concurrent_mixed_requests_get_the_answers_of_the_model_itself(digits: Tree, asked: list[Question]) -> None:
    before = digits.status()["fronts"][0]
    ask_from_everywhere(digits, asked)
    eventually(lambda: digits.status()["fronts"][0]["ok"] - before["ok"] >= REQUESTS, "what was answered last is counted, too")
    after = digits.status()
    assert after["fronts"][0]["ok"] - before["ok"] == REQUESTS
    assert after["fronts"][0]["errors"] == before["errors"]
    assert after["replicas"][0]["queue_rows"] == 0


def test_so_do_a_thousand_over_several_fronts_and_engines(asked: list[Question]) -> None:
    with serving("digits", EVENKEEL_FRONTS="2", EVENKEEL_REPLICAS="2", EVENKEEL_THREADS="1") as tree:
        eventually(lambda: all(r["state"] == "READY" for r in tree.status()["replicas"]), "both engines are ready")
        time.sleep(0.5)
        ask_from_everywhere(tree, asked)
        eventually(lambda: sum(f["ok"] for f in tree.status()["fronts"]) >= REQUESTS, "what was answered last is counted, too")
        status = tree.status()
        assert sum(front["ok"] for front in status["fronts"]) == REQUESTS
        assert all(replica["rows"] > 0 for replica in status["replicas"]), "both engines took their share"


@pytest.mark.parametrize("content_type", FORMATS)
def test_a_thousand_single_rows_from_many_clients_at_once_are_each_answered_right(digits: Tree, content_type: str) -> None:
    """The common load, which batches by columns: one row each, all connections asking at the same moment."""
    clients, rounds = 64, 16
    rows = model.some_rows(np.random.default_rng(SEED), clients * rounds)
    want = model.answers(rows)
    wires = [digits.wire(60.0) for _ in range(clients)]
    wrong = []
    for turn in range(rounds):
        mine = range(turn * clients, (turn + 1) * clients)
        sent = [request(model.ENCODE[content_type](rows[i : i + 1]), content_type) for i in mine]
        for wire, data in zip(wires, sent, strict=True):
            wire.send(data)
        for wire, i in zip(wires, mine, strict=True):
            reply = wire.read()
            if reply.status != 200 or not model.close(model.decode(content_type, reply.body), want[i : i + 1]):
                wrong.append((i, reply.status))
    for wire in wires:
        wire.close()
    assert wrong == [], f"{len(wrong)} of {len(rows)} wrong"
