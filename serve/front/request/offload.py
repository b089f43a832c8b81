"""Work that would hold up the event loop: large bodies are decoded, and large answers encoded, in a thread.

One piece of work at a time, so at most one body is unpacked. Owner of the thread, of who waits for it, and of how many
bytes of bodies wait.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from evenkeel.serve.contract.logline import log
from evenkeel.serve.errors import EvenkeelError, OutOfMemory
from evenkeel.serve.front.request.invocation import Invocation

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Work(Generic[Made]):
    """What `make` returns goes to `done` and what it raises to `failed`, in the event loop, unless nobody waits any more."""

    size: int  # bytes that are held meanwhile
    make: Callable[[], Made]  # in the thread
    done: Callable[[Made], None]
    failed: Callable[[Invocation, EvenkeelError], None]
    ended: Callable[[], None] = lambda: None  # however it ended, also if it was never begun


class Offload:
    """Work by the request for which it is done."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = ThreadPoolExecutor(1, "offload")
        self._tasks: dict[Invocation, asyncio.Task[None]] = {}  # kept: the loop itself holds tasks only weakly
        self.bytes = 0

    def start(self, invocation: Invocation, work: Work[Made]) -> None:
        self.bytes += work.size
        self._tasks[invocation] = self._loop.create_task(self._run(invocation, work))

    async def _run(self, invocation: Invocation, work: Work[Made]) -> None:
        try:
            made = await self._loop.run_in_executor(self._thread, _if_awaited, invocation, work.make)
        except Exception as e:
            work.failed(invocation, translated(e))
        else:
            if made is not None and invocation.caller is not None:
                work.done(made)
        finally:
            self.bytes -= work.size
            work.ended()
            if self._tasks.get(invocation) is asyncio.current_task():  # not begun anew meanwhile
                del self._tasks[invocation]

    @property
    def waiting(self) -> Iterable[Invocation]:
        return self._tasks

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def translated(error: Exception) -> EvenkeelError:
    """What the caller is told. A bug of ours costs this caller only."""
    if isinstance(error, EvenkeelError):
        return error
    if isinstance(error, MemoryError):
        return OutOfMemory("there is not enough memory for this request", retry_after_s=1)
    log("request_failed", "a request could not be handled", level="error", trace="".join(traceback.format_exception(error)[-6:]))
    return EvenkeelError("an internal error; the log has its trace")


def _if_awaited(invocation: Invocation, make: Callable[[], Made]) -> Made | None:
    """In the thread, when its turn there has come: nobody may wait for it any more by then."""
    return make() if invocation.caller is not None else None
