"""The end of an engine is noticed, whatever lies unread in the socket at that moment."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from evenkeel.serve.contract.status_page import StatusPage
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.front.routing import engine_channel
from evenkeel.serve.front.routing.engine_channel import FULL_S, EngineChannel
from evenkeel.serve.transport import descriptor
from evenkeel.serve.transport.arena import Arena, spill
from evenkeel.serve.transport.channel import NO_FD
from evenkeel.serve.transport.descriptor import PROTOCOL, RECORD_BYTES, REPLY, REQUEST
from tests.support.front_bench import FrontBench
from tests.support.models import replica, signature, spec


class Seen:
    """Writes down what a channel says."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def replied(self, link: EngineChannel, records: bytes) -> None:
        self.words.append(f"{len(records) // RECORD_BYTES} replies")

    def greeted(self, link: EngineChannel) -> None:
        self.words.append("up")

    def lost(self, link: EngineChannel) -> None:
        self.words.append("lost")


@contextlib.contextmanager
def greeting_engine(folder: Path) -> Iterator[tuple[socket.socket, Callable[[socket.socket], None]]]:
    """A listening socket at `folder`/engine, and what an engine says first to whom it accepts."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(folder / "engine"))
        listener.listen()
        info = json.dumps(
            {"models": [{"name": "m", "version": "1", "rows_max": 1, "signature": None, "number": 0, "revision": 0}], "epoch": 1}
        ).encode()
        fd = spill(info)
        record = REPLY.pack(descriptor.HELLO, PROTOCOL, 0, 0, 0, 0, len(info), 0)
        yield listener, lambda engine: void(socket.send_fds(engine, [record], [fd]))
        os.close(fd)


def void(sent: int) -> None:
    assert sent == RECORD_BYTES


def test_an_engine_that_ends_with_requests_unread_and_replies_under_way_is_noticed(tmp_path: Path) -> None:
    """uvloop then calls the reader once, for the replies, and never again."""

    async def story() -> None:
        with greeting_engine(tmp_path) as (listener, hello):
            await ends_with_requests_unread(listener, hello)

    async def ends_with_requests_unread(listener: socket.socket, hello: Callable[[socket.socket], None]) -> None:
        seen: list[str] = []
        block = StatusPage.create().engine(0)
        link = EngineChannel(str(tmp_path / "engine"), block, Arena.create(1 << 20), lambda number: block, Seen(seen), Seen(seen))
        engine, _ = listener.accept()
        engine.recv(RECORD_BYTES)
        hello(engine)
        await asyncio.sleep(0.05)
        assert seen == ["up"]
        link.submit(REQUEST.pack(descriptor.MORE, 0, 1, 7, 0, 0, 0, 0, 0.0))
        await asyncio.sleep(0.05)
        engine.sendall(REPLY.pack(descriptor.ANSWER, 0, 0, 1, 7, 0, 0, 0))
        engine.close()  # with MORE unread
        await asyncio.sleep(0.05)
        link.look_again()
        link.look_again()
        assert seen == ["up", "1 replies", "lost"]
        link.close()

    uvloop.run(story())


@pytest.mark.parametrize(("bodies", "inputs"), [(8, 1), (0, 3000), (8, 3000)])
def test_a_front_is_greeted_in_one_record_whatever_the_model_has_to_say(bodies: int, inputs: int) -> None:
    """More than a socket takes at once: 8 samples of 64 KiB, or thousands of inputs with long names."""
    specs = [spec(f"input_{i}_{'x' * 100}", 2) for i in range(inputs)]

    def made() -> Replica:
        found = replica(signature(specs, [spec("y", 2)]), lambda x: [x[0]])
        found.warmup_requests = [{"content_type": "a/b", "body": "b" * 87_384} for _ in range(bodies)]
        return found

    with FrontBench(made) as bench:
        bench.settle(1)
        model = bench.front.engines.serving.model
        assert model is not None and len(model.warmup_requests) == bodies
        assert model.signature is not None and len(model.signature.inputs) == inputs


def test_a_front_without_a_free_descriptor_is_greeted_when_it_has_one(tmp_path: Path) -> None:
    async def story() -> None:
        with greeting_engine(tmp_path) as (listener, hello):
            seen: list[str] = []
            block = StatusPage.create().engine(0)
            link = EngineChannel(
                str(tmp_path / "engine"), block, Arena.create(1 << 20), lambda number: block, Seen(seen), Seen(seen)
            )
            for wait_s, fds_left in ((2 * FULL_S, False), (0.1, True)):
                engine, _ = listener.accept()
                engine.recv(RECORD_BYTES)
                assert link._channel is not None
                link._channel.fds.extend([] if fds_left else [NO_FD])
                hello(engine)
                await asyncio.sleep(wait_s)
            assert seen == ["up"]
            link.close()

    uvloop.run(story())


def test_a_want_of_descriptors_costs_a_moment_and_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*args: object) -> socket.socket:
        raise OSError(errno.EMFILE, "too many open files")

    async def story() -> None:
        with greeting_engine(tmp_path) as (listener, hello):
            seen: list[str] = []
            block = StatusPage.create().engine(0)
            with monkeypatch.context() as patched:
                patched.setattr(engine_channel, "FULL_S", 0.01)
                patched.setattr(engine_channel.socket, "socket", none_left)
                link = EngineChannel(
                    str(tmp_path / "engine"), block, Arena.create(1 << 20), lambda number: block, Seen(seen), Seen(seen)
                )
                await asyncio.sleep(0.1)
            listener.settimeout(5.0)
            engine, _ = await asyncio.get_running_loop().run_in_executor(None, listener.accept)
            engine.recv(RECORD_BYTES)
            hello(engine)
            await asyncio.sleep(0.1)
            assert seen == ["up"]
            link.close()
            engine.close()

    uvloop.run(story())
