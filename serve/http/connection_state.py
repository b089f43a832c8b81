"""The life of an HTTP connection: states and legal steps, for both ports. One table.

The diagram in docs/ARCHITECTURE.md is drawn from NEXT (`python -m evenkeel.serve.http.connection_state` prints it). A connection
answers one request after the other: what a client sends ahead is held, unread, until its turn. So one state says all.
"""

from __future__ import annotations

from enum import IntEnum


class ConnectionState(IntEnum):
    IDLE = 0  # between requests: nothing of the next has come
    HEAD = 1  # a head has begun to come
    BODY = 2  # the head is here, the body comes
    DIRECT = 3  # the rest of a large body is read straight to its place
    ANSWERING = 4  # the request is here, its answer is being made
    STREAMING = 5  # the answer has begun, and comes in parts
    STALLED = 6  # answered, but the client takes nothing: what it asks next waits
    OWED = 7  # the client has ended its half and will send no more; it still gets its answer
    LINGERING = 8  # our half is ended with a refusal; what still comes is thrown away, so that it can be read
    CLOSING = 9  # the last answer goes out, and then the connection ends
    CLOSED = 10


_END = frozenset({ConnectionState.LINGERING, ConnectionState.CLOSING, ConnectionState.CLOSED})
NEXT: dict[ConnectionState, frozenset[ConnectionState]] = {
    ConnectionState.IDLE: _END | {ConnectionState.HEAD, ConnectionState.BODY, ConnectionState.ANSWERING, ConnectionState.STALLED},
    ConnectionState.HEAD: _END | {ConnectionState.BODY, ConnectionState.ANSWERING},
    ConnectionState.BODY: _END | {ConnectionState.DIRECT, ConnectionState.ANSWERING},
    ConnectionState.DIRECT: _END | {ConnectionState.ANSWERING},
    ConnectionState.ANSWERING: _END
    | {ConnectionState.IDLE, ConnectionState.STREAMING, ConnectionState.STALLED, ConnectionState.OWED},
    ConnectionState.STREAMING: _END | {ConnectionState.IDLE, ConnectionState.STALLED, ConnectionState.OWED},
    ConnectionState.STALLED: frozenset({ConnectionState.IDLE, ConnectionState.CLOSING, ConnectionState.CLOSED}),
    ConnectionState.OWED: frozenset({ConnectionState.CLOSING, ConnectionState.CLOSED}),  # whatever the answer is, it is the last
    ConnectionState.LINGERING: frozenset({ConnectionState.CLOSING, ConnectionState.CLOSED}),
    ConnectionState.CLOSING: frozenset({ConnectionState.CLOSED}),
    ConnectionState.CLOSED: frozenset(),
}
RECEIVING = frozenset({ConnectionState.HEAD, ConnectionState.BODY, ConnectionState.DIRECT})  # in the middle of a request's bytes
READING = frozenset({ConnectionState.IDLE, ConnectionState.HEAD, ConnectionState.BODY})  # what comes is read as HTTP
BUSY = frozenset(
    {ConnectionState.ANSWERING, ConnectionState.STREAMING, ConnectionState.OWED}
)  # a client waits for the rest of its answer


def step(state: ConnectionState, target: ConnectionState) -> ConnectionState:
    """The next state, or ValueError for a step that the table does not have."""
    if target not in NEXT[state]:
        raise ValueError(f"illegal transition {state.name} -> {target.name}")
    return target


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> IDLE"]
    lines += [f"    {s.name} --> {t.name}" for s in ConnectionState for t in sorted(NEXT[s])]
    return "\n".join([*lines, "    CLOSED --> [*]"])


if __name__ == "__main__":
    print(diagram())
