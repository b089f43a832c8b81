"""The router between raw clients and containers that do as told: what is passed on, what comes back, and every way to fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from botocore.eventstream import EventStreamBuffer

from evenkeel.endpoint.router import exchange, router_state
from evenkeel.endpoint.router.client_side import ClientSide
from evenkeel.endpoint.router.invocation_routes import route_of
from evenkeel.endpoint.router.router_state import RouterState
from tests.endpoint.scripted_container import ScriptedContainer, Talk, saying

PATH = b"/endpoints/e/invocations"


class Asked:
    """An answer as it was read."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body


@asynccontextmanager
async def router(*ports: int, payload_bytes: int = 1 << 20) -> AsyncIterator[tuple[int, RouterState]]:
    state = RouterState(payload_bytes, "us-east-1", "000000000000")
    instances = [[f"i{n}", "127.0.0.1", port] for n, port in enumerate(ports)]
    fleet = {"share": 1.0, "config": "c", "instances": instances}
    state.set_route("e", route_of({"variants": [{"name": "v", "weight": 1.0, "strategy": "RANDOM", "fleets": [fleet]}]}))
    server = await asyncio.get_running_loop().create_server(lambda: ClientSide(state), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], state
    finally:
        server.close()


async def ask(port: int, body: bytes = b"{}", path: bytes = PATH, *headers: bytes, host: bytes = b"127.0.0.1") -> Asked:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: " + host, b"Content-Length: %d" % len(body), *headers, b"", b""]
    writer.write(b"\r\n".join(lines) + body)
    answer = await read(reader)
    writer.close()
    return answer


async def read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
    if "chunked" in headers.get("transfer-encoding", ""):
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers["content-length"]))
    return Asked(int(head[0].split()[1]), headers, body)


def run(talk: Talk, test: Callable[[ScriptedContainer, int, RouterState], Awaitable[None]], **options: int) -> None:
    async def whole() -> None:
        async with ScriptedContainer(talk) as container, router(container.port, **options) as (port, state):
            await asyncio.wait_for(test(container, port, state), 30)
            assert not state.in_flight

    asyncio.run(whole())


def test_a_request_arrives_as_the_platform_sends_it_and_its_answer_comes_back() -> None:
    async def test(container: ScriptedContainer, port: int, state: RouterState) -> None:
        asked = await ask(
            port, b"body", PATH, b"Content-Type: text/csv", b"Accept: application/json", b"X-Secret: 1", b"Authorization: AWS4 x",
            b"X-Amzn-SageMaker-Custom-Attributes: trace", b"X-Amzn-SageMaker-Target-Variant: v",
        )  # fmt: skip
        assert (asked.status, asked.body) == (200, b"answer")
        assert asked.headers["content-type"] == "text/plain" and asked.headers["x-amzn-sagemaker-custom-attributes"] == "back"
        assert asked.headers["x-amzn-invoked-production-variant"] == "v" and "x-internal" not in asked.headers
        head = container.heads[0].decode().lower()
        assert head.startswith("post /invocations http/1.1\r\n") and container.bodies == [b"body"]
        for line in ("content-type: text/csv", "accept: application/json", "x-amzn-sagemaker-custom-attributes: trace",
                     "host: model.aws.local:8080", "user-agent: ahc/2.0"):  # fmt: skip
            assert f"\r\n{line}\r\n" in head
        for word in ("secret", "authorization", "target-variant"):
            assert word not in head

    run(
        saying(b"200 OK", b"answer", b"Content-Type: text/plain", b"X-Amzn-SageMaker-Custom-Attributes: back", b"X-Internal: 1"),
        test,
    )


@pytest.mark.parametrize(("status", "kind"), [(b"400 Bad Request", "client"), (b"503 Busy", "server")])
def test_an_error_of_the_container_is_a_model_error(status: bytes, kind: str) -> None:
    async def test(container: ScriptedContainer, port: int, state: RouterState) -> None:
        asked = await ask(port)
        told = json.loads(asked.body)
        assert asked.status == 424 and asked.headers["x-amzn-errortype"] == "ModelError"
        assert told["OriginalStatusCode"] == int(status[:3]) and told["OriginalMessage"] == "why"
        assert told["Message"].startswith(f'Received {kind} error ({status[:3].decode()}) from primary with message "why".')

    run(saying(status, b"why"), test)


async def hang_up(head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def no_http(head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello\r\n\r\n")


async def half(head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    await writer.drain()
    writer.close()


async def huge_head(head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n")


@pytest.mark.parametrize("talk", [hang_up, no_http, half, huge_head, saying(b"200 OK", b"x" * (1 << 21))])
def test_a_container_that_does_not_answer_is_a_model_error_with_status_zero(talk: Talk) -> None:
    async def test(container: ScriptedContainer, port: int, state: RouterState) -> None:
        asked = await ask(port)
        assert asked.status == 424 and json.loads(asked.body)["OriginalStatusCode"] == 0
        assert len(container.bodies) == 1  # what has been sent is not sent a second time

    run(talk, test)


def test_an_answer_that_takes_too_long_ends_with_status_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "ANSWER_S", 0.05)
    gone = asyncio.Event()

    async def silent(head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        await gone.wait()

    async def test(container: ScriptedContainer, port: int, state: RouterState) -> None:
        asked = await ask(port)
        gone.set()
        assert asked.status == 424 and "timed out" in json.loads(asked.body)["Message"]

    run(silent, test)


def test_an_instance_that_takes_no_connection_leaves_the_request_to_another() -> None:
    async def whole() -> None:
        async with ScriptedContainer(saying(b"200 OK", b"ok")) as container, ScriptedContainer(hang_up) as other:
            closed = other.port
            await other.__aexit__(None, None, None)
            async with router(closed, container.port) as (port, state):
                for _ in range(8):
                    assert (await ask(port)).body == b"ok"
                assert not state.in_flight
            async with router(closed) as (port, _):
                assert (await ask(port)).status in (424, 503)

    asyncio.run(whole())


def test_a_stream_comes_as_events_and_says_where_it_broke() -> None:
    async def talk(head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (b"a", b"b\n"):
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            await writer.drain()
        if body == b"break":
            writer.close()
        else:
            writer.write(b"0\r\n\r\n")

    async def test(container: ScriptedContainer, port: int, state: RouterState) -> None:
        path = PATH + b"-response-stream"
        for body, last in ((b"whole", None), (b"break", "ModelStreamError")):
            asked = await ask(port, body, path, b"X-Amzn-SageMaker-Accept: text/x")
            assert asked.headers["content-type"] == "application/vnd.amazon.eventstream"
            assert asked.headers["x-amzn-sagemaker-content-type"] == "text/event-stream"
            buffer = EventStreamBuffer()
            buffer.add_data(asked.body)
            events = list(buffer)
            assert b"".join(e.payload for e in events if ":event-type" in e.headers) == b"ab\n"
            assert events[-1].headers.get(":exception-type") == last
        assert b"accept: text/x" in container.heads[0]

    run(talk, test)


def test_limits_and_wrong_calls_are_refused_and_nothing_reaches_the_container() -> None:
    async def test(container: ScriptedContainer, port: int, state: RouterState) -> None:
        large = await ask(port, b"x" * 2000)
        assert large.status == 413 and b"exceeded 1000 bytes" in large.body
        for path, host, headers, status, words in (
            (b"/endpoints/x/invocations", b"localhost", (), 400, b"Endpoint x of account 000000000000 not found."),
            (b"/endpoints/e/async-invocations", b"localhost", (), 501, b"not supported"),
            (PATH, b"evil.example", (), 403, b"evil.example"),
            (PATH, b"localhost", (b"X-Amzn-SageMaker-Target-Variant: other",), 400, b"Variant other"),
            (
                PATH,
                b"localhost",
                (b"X-Amzn-SageMaker-Custom-Attributes: " + b"a" * 1025,),
                400,
                b"length less than or equal to 1024",
            ),
        ):
            asked = await ask(port, b"{}", path, *headers, host=host)
            assert asked.status == status and words in asked.body, path
        assert container.heads == []

    run(saying(b"200 OK", b"ok"), test, payload_bytes=1000)


def test_connections_are_used_again_and_a_client_may_send_in_any_pieces() -> None:
    async def test(container: ScriptedContainer, port: int, state: RouterState) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = b"POST " + PATH + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"
        for _ in range(3):
            for byte in request:
                writer.write(bytes((byte,)))
                await writer.drain()
                await asyncio.sleep(0)
            assert (await read(reader)).body == b"ok"
        writer.write(b"no http at all\r\n\r\n")
        assert (await read(reader)).status == 400
        assert await reader.read() == b""
        assert container.bodies == [b"abc"] * 3 and container.connections == 1

    run(saying(b"200 OK", b"ok"), test)


def test_a_client_that_leaves_closes_the_containers_connection() -> None:
    async def whole() -> None:
        came, left = asyncio.Event(), asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            came.set()
            while await reader.read(100):
                pass
            left.set()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with router(server.sockets[0].getsockname()[1]) as (port, state):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST " + PATH + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
            await asyncio.wait_for(came.wait(), 10)
            writer.transport.abort()
            await asyncio.wait_for(left.wait(), 10)
            assert not state.in_flight
        server.close()

    asyncio.run(whole())


def test_draining_waits_for_what_is_in_flight_and_for_no_more() -> None:
    gate = asyncio.Event()

    async def slow(head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await saying(b"200 OK", b"late")(head, body, writer)

    async def test(container: ScriptedContainer, port: int, state: RouterState) -> None:
        asking = asyncio.create_task(ask(port))
        while not container.heads:
            await asyncio.sleep(0.001)
        state.set_route("e", None)
        draining = asyncio.create_task(state.drained(["i0"], 30))
        await asyncio.sleep(0.01)
        assert not draining.done()
        gate.set()
        assert (await asking).body == b"late"
        await asyncio.wait_for(draining, 10)
        await state.drained(["i0", "unknown"], 30)  # nothing of theirs: at once

    run(slow, test)


class Watched:
    deadline_s = 0.0  # has passed

    def __init__(self) -> None:
        self.told = 0

    def is_due(self) -> None:
        self.told += 1


def test_one_timer_watches_every_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many requests come and go before a look, it is one look and not one for each."""
    monkeypatch.setattr(router_state, "LOOK_S", 0.0)
    looks = []

    async def test() -> None:
        state = RouterState(1, "r", "a")
        look = state._look
        monkeypatch.setattr(state, "_look", lambda: (looks.append(1), look()))
        for _ in range(50):
            state.watch(short := Watched())
            state.forget(short)
        state.watch(late := Watched())
        while not late.told:
            await asyncio.sleep(0)
        state.forget(late)
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(test())
    assert len(looks) <= 3
