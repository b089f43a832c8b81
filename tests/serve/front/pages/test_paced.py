"""Requests to the application begin a few in each turn of the loop, in their order; who leaves holds up nobody."""

from __future__ import annotations

import asyncio
from typing import Any

from evenkeel.serve.front.pages.paced import BEGUN_MAX, Paced


class Application:
    """Notes in which turn each request began."""

    def __init__(self) -> None:
        self.turn = 0
        self.begun: list[tuple[int, int]] = []  # which request, in which turn

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun.append((scope["number"], self.turn))

    async def count_turns(self, turns: int) -> None:
        for _ in range(turns):
            self.turn += 1
            await asyncio.sleep(0)


def ask(paced: Paced, number: int) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(paced({"number": number}, None, None))  # type: ignore[arg-type, arg-type]


def test_however_many_come_at_once_a_few_begin_in_each_turn() -> None:
    async def story() -> Application:
        application = Application()
        paced = Paced(application)
        asked = [ask(paced, n) for n in range(64)]
        await application.count_turns(100)
        assert all(task.done() for task in asked)
        return application

    application = asyncio.run(story())
    assert [number for number, _ in application.begun] == list(range(64))
    turns = [turn for _, turn in application.begun]
    assert max(turns.count(turn) for turn in turns) <= BEGUN_MAX


def test_one_alone_begins_at_once() -> None:
    async def story() -> Application:
        application = Application()
        await Paced(application)({"number": 1}, None, None)  # type: ignore[arg-type]
        return application

    assert asyncio.run(story()).begun == [(1, 0)]


def test_those_who_leave_while_they_wait_hold_up_nobody() -> None:
    async def story() -> Application:
        application = Application()
        paced = Paced(application)
        asked = [ask(paced, n) for n in range(30)]
        await asyncio.sleep(0)
        for task in asked[BEGUN_MAX:-1]:
            task.cancel()
        await application.count_turns(10)
        assert asked[-1].done()
        return application

    assert 29 in [number for number, _ in asyncio.run(story()).begun]
