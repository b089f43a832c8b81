"""What keeps a worker going beside its connections, and what ends it."""

from __future__ import annotations

import asyncio

import pytest

from evenkeel.serve.contract import logline
from evenkeel.serve.contract.process_setup import EXIT_BUG
from evenkeel.serve.front import worker


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []
    monkeypatch.setattr(logline, "leave", codes.append)
    return codes


async def _broken() -> None:
    raise KeyError("a bug")


async def _endless() -> None:
    await asyncio.sleep(60)


async def _ended(work: asyncio.Task[None]) -> None:
    work.add_done_callback(worker.leave_if_it_broke)
    await asyncio.wait([work])
    await asyncio.sleep(0)


def test_a_loop_of_the_worker_that_breaks_ends_the_worker(left: list[int]) -> None:
    async def story() -> None:
        await _ended(asyncio.create_task(_broken()))

    asyncio.run(story())
    assert left == [EXIT_BUG]


def test_a_loop_that_is_told_to_end_does_not(left: list[int]) -> None:
    async def story() -> None:
        task = asyncio.create_task(_endless())
        asyncio.get_running_loop().call_soon(task.cancel)
        await _ended(task)

    asyncio.run(story())
    assert left == []
