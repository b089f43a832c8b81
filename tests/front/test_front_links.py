"""The end of an engine is noticed, whatever lies unread in the socket at that moment."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import uvloop

from serve.contract.status import StatusPage
from serve.front.links import EngineLink
from serve.transport import descriptor
from serve.transport.arena import Arena
from serve.transport.descriptor import PROTOCOL, RECORD_BYTES, REPLY, REQUEST


def test_an_engine_that_ends_with_requests_unread_and_replies_under_way_is_noticed(tmp_path: Path) -> None:
    """uvloop then calls the reader once, for the replies, and never again."""

    async def story() -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(tmp_path / "engine"))
        listener.listen()
        seen: list[str] = []
        block = StatusPage.create().engine(0)
        link = EngineLink(
            str(tmp_path / "engine"), block, Arena.create(1 << 20), lambda tally: block,
            lambda link, records: seen.append(f"{len(records) // RECORD_BYTES} replies"),
            lambda link: seen.append("up"), lambda link: seen.append("lost"),
        )  # fmt: skip
        engine, _ = listener.accept()
        engine.recv(RECORD_BYTES)
        card = json.dumps({"name": "m", "version": "1", "rows_max": 1, "signature": None}).encode()
        card += b" " * (-len(card) % RECORD_BYTES)
        engine.sendall(REPLY.pack(descriptor.HELLO, PROTOCOL, 0, 0, 0, 0, len(card), 1, 0.0, 0.0, 0) + card)
        await asyncio.sleep(0.05)
        assert seen == ["up"]
        link.submit(REQUEST.pack(descriptor.MORE, 0, 0, 1, 7, 0, 0, 0, 1, 0.0, 0.0))
        await asyncio.sleep(0.05)
        engine.sendall(REPLY.pack(descriptor.ANSWER, 0, 0, 1, 7, 0, 0, 1, 0.0, 0.0, 0))
        engine.close()  # with MORE unread
        await asyncio.sleep(0.05)
        link.look_again()
        link.look_again()
        assert seen == ["up", "1 replies", "lost"]
        link.close()
        listener.close()

    uvloop.run(story())
