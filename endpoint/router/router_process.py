"""The router's process: it serves the listening socket that it inherits, and does what the control plane tells it over a socket.

Told are lines of JSON, answered by lines with the same id:

    {"id": 1, "routes": {"mine": {"variants": [...]}, "other": null}}   from now on requests go like that; null: no such endpoint
    {"id": 2, "drain": ["i-000001"], "within_s": 60}                    answered once nothing of theirs is in flight

It ends when that socket does: a router that nobody tells anything would send requests to instances that are gone.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from dataclasses import dataclass
from typing import Any

import orjson
import uvloop

from evenkeel.endpoint.router.client_side import ClientSide
from evenkeel.endpoint.router.invocation_routes import route_of
from evenkeel.endpoint.router.router_state import RouterState

LINE_BYTES_MAX = 16 << 20  # of a table of routes


@dataclass(frozen=True, slots=True)
class RouterOrders:
    """What it is told at its start, as JSON in its only argument."""

    listener_fd: int
    orders_fd: int
    payload_bytes: int
    region: str
    account: str


async def serve(orders: RouterOrders) -> None:
    state = RouterState(orders.payload_bytes, orders.region, orders.account)
    told = socket.socket(fileno=orders.orders_fd)
    reader, writer = await asyncio.open_connection(sock=told, limit=LINE_BYTES_MAX)
    listener = socket.socket(fileno=orders.listener_fd)
    server = await asyncio.get_running_loop().create_server(lambda: ClientSide(state), sock=listener, backlog=4096)
    try:
        while line := await reader.readline():
            state.run(_obey(orjson.loads(line), state, writer))
    finally:
        server.close()


async def _obey(order: dict[str, Any], state: RouterState, writer: asyncio.StreamWriter) -> None:
    for endpoint, told in order.get("routes", {}).items():
        state.set_route(endpoint, None if told is None else route_of(told))
    if "drain" in order:
        await state.drained(order["drain"], order["within_s"])
    writer.write(orjson.dumps({"id": order["id"]}) + b"\n")


def main() -> int:
    orders = RouterOrders(**orjson.loads(sys.argv[1]))
    for fd in (orders.listener_fd, orders.orders_fd):
        os.set_inheritable(fd, False)
    uvloop.run(serve(orders))
    return 0


if __name__ == "__main__":
    sys.exit(main())
