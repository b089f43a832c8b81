"""The clients of benchmarks/ping.py, each a process of its own: `python -m benchmarks.ping_clients KIND PORT SECONDS`.

One JSON line on stdout at the end. Only the standard library, one thread and epoll, so that a client costs little of the CPU
that it shares with the server. Everything is due at a fixed time; `late` is how much later it was sent, which is the machine's
doing and the client's. What is late because an answer was is counted as the server's time.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

PING = b"GET /ping HTTP/1.1\r\nHost: bench\r\n\r\n"
PING_EVERY_S = 0.005
FRESH_EVERY_S = 0.02
STORM_PER_S = 512
LOAD_CONNECTIONS = 200
REFUSED_PAUSE_S = 0.05  # what a client that was refused waits before it tries again
WAIT_S_MAX = 60.0  # for one answer; then it counts as failed
BODY = b"[[1.0]]"
WORK = b"POST /invocations HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)


@dataclass
class Found:
    """Seconds, and what was answered."""

    connect_s: list[float] = field(default_factory=list)
    answer_s: list[float] = field(default_factory=list)  # from the request, or for a new connection from the connect, on
    late_s: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)

    def print(self) -> None:
        print(
            json.dumps({"connect_s": self.connect_s, "answer_s": self.answer_s, "late_s": self.late_s, "statuses": self.statuses})
        )


@dataclass(eq=False)
class Call:
    """One connection with at most one request under way."""

    sock: socket.socket
    began_s: float
    connected: bool = False
    rest: bytes = b""


def whole(data: bytes) -> str | None:
    """The status of an answer that is complete; None while it is not. Ours always have a Content-Length."""
    head, mark, body = data.partition(b"\r\n\r\n")
    if not mark:
        return None
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return head[9:12].decode() if len(body) >= length else None


def keep_pinging(port: int, seconds: float) -> Found:
    """One kept-alive connection. A ping that had to wait for the answer to the one before is timed from when it was due."""
    found, sock, ended_s = Found(), connect(port), 0.0
    for due_s in schedule(seconds, PING_EVERY_S):
        sleep_until(due_s)
        began_s = due_s if ended_s > due_s else time.perf_counter()
        found.late_s.append(began_s - due_s)
        sock.sendall(PING)
        data = b""
        while (status := whole(data)) is None:
            data += sock.recv(65536)
        ended_s = time.perf_counter()
        found.answer_s.append(ended_s - began_s)
        found.statuses[status] += 1
    return found


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), WAIT_S_MAX)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def schedule(seconds: float, every_s: float) -> list[float]:
    start_s = time.perf_counter()
    return [start_s + i * every_s for i in range(round(seconds / every_s))]


def sleep_until(due_s: float) -> None:
    time.sleep(max(0.0, due_s - time.perf_counter()))


def new_connections(port: int, seconds: float, every_s: float) -> Found:
    """A connection each `every_s`: connect, one ping, close. None waits for another."""
    found, selector = Found(), selectors.DefaultSelector()
    calls: set[Call] = set()
    due = schedule(seconds, every_s)
    end_s = due[-1] + WAIT_S_MAX
    turn = 0
    while (turn < len(due) or calls) and time.perf_counter() < end_s:
        while turn < len(due) and due[turn] <= time.perf_counter():
            calls.add(begin(port, selector, found, due[turn]))
            turn += 1
        wait_s = max(0.0, due[turn] - time.perf_counter()) if turn < len(due) else 0.1
        for key, _ in selector.select(wait_s):
            if go_on(key.data, selector, found):
                calls.discard(key.data)
    found.statuses["none"] += len(calls) + len(due) - turn
    return found


def begin(port: int, selector: selectors.BaseSelector, found: Found, due_s: float) -> Call:
    sock = socket.socket()
    sock.setblocking(False)
    call = Call(sock, time.perf_counter())
    found.late_s.append(call.began_s - due_s)
    sock.connect_ex(("127.0.0.1", port))
    selector.register(sock, selectors.EVENT_WRITE, call)
    return call


def go_on(call: Call, selector: selectors.BaseSelector, found: Found) -> bool:
    """True when it is over."""
    now_s = time.perf_counter()
    if not call.connected:
        error = call.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            return over(call, selector, found, f"errno {error}")
        call.connected = True
        found.connect_s.append(now_s - call.began_s)
        call.sock.send(PING)
        selector.modify(call.sock, selectors.EVENT_READ, call)
        return False
    try:
        data = call.sock.recv(65536)
    except OSError as e:
        return over(call, selector, found, f"errno {e.errno}")
    call.rest += data
    status = whole(call.rest)
    if status is None and data:
        return False
    if status is not None:
        found.answer_s.append(now_s - call.began_s)
    return over(call, selector, found, status or "closed")


def over(call: Call, selector: selectors.BaseSelector, found: Found, status: str) -> bool:
    found.statuses[status] += 1
    selector.unregister(call.sock)
    call.sock.close()
    return True


def load(port: int, seconds: float) -> Found:
    """Requests on many kept-alive connections, each as soon as the last was answered, or a moment after it was refused."""
    found, selector = Found(), selectors.DefaultSelector()
    paused: list[tuple[float, Call]] = []  # in order of time, as they were added
    for _ in range(LOAD_CONNECTIONS):
        call = Call(connect(port), time.perf_counter())
        call.sock.sendall(WORK)
        selector.register(call.sock, selectors.EVENT_READ, call)
    end_s = time.perf_counter() + seconds
    while (now_s := time.perf_counter()) < end_s:
        while paused and paused[0][0] <= now_s:
            ask(paused.pop(0)[1])
        for key, _ in selector.select(0.01):
            call = key.data
            call.rest += call.sock.recv(65536)
            status = whole(call.rest)
            if status is None:
                continue
            found.statuses[status] += 1
            found.answer_s.append(time.perf_counter() - call.began_s)
            call.rest = b""
            if status == "200":
                ask(call)
            else:
                paused.append((time.perf_counter() + REFUSED_PAUSE_S, call))
    found.answer_s = []  # nobody asks for it
    return found


def ask(call: Call) -> None:
    call.began_s = time.perf_counter()
    call.sock.sendall(WORK)


KINDS: dict[str, Callable[[int, float], Found]] = {
    "kept": keep_pinging,
    "new": lambda port, seconds: new_connections(port, seconds, FRESH_EVERY_S),
    "storm": lambda port, seconds: new_connections(port, seconds, 1 / STORM_PER_S),
    "load": load,
}


if __name__ == "__main__":
    KINDS[sys.argv[1]](int(sys.argv[2]), float(sys.argv[3])).print()
