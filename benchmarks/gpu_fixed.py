"""A server that only reads each request to its end and answers as many bytes as the CNN does: what HTTP costs at the least.

`python -m benchmarks.gpu_fixed <port> <processes>`. The processes share one listening socket. It knows no more of HTTP than the
clients of benchmarks/gpu.py need: heads in one piece, with a length, and the next request only after the answer.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys

from benchmarks.gpu_wire import READ_BYTES, lengths

HEAD_BYTES_MAX = 512
ANSWER_BYTES = 4128  # 1000 numbers as an NPY file
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-npy\r\nContent-Length: %d\r\n\r\n" % ANSWER_BYTES + bytes(ANSWER_BYTES)


def serve(listener: socket.socket) -> None:
    listener.setblocking(False)
    epoll, wires, left = select.epoll(), dict[int, socket.socket](), dict[int, int]()
    epoll.register(listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
    place = bytearray(READ_BYTES)
    while True:
        for number, _ in epoll.poll():
            if number != listener.fileno():
                if not answer(wires[number], left, place):
                    wires.pop(number).close()
                continue
            with contextlib.suppress(BlockingIOError):  # another process was first
                wire, _ = listener.accept()
                wires[wire.fileno()], left[wire.fileno()] = wire, 0
                epoll.register(wire, select.EPOLLIN)


def answer(wire: socket.socket, left: dict[int, int], place: bytearray) -> bool:
    """Read what is there, and answer at the end of a request. `left`: bytes of each connection's request that are still to come.
    False: the connection has ended."""
    number = wire.fileno()
    try:
        got = wire.recv_into(place)
        if not got:
            return False
        if not left[number]:
            found = lengths(place[: min(got, HEAD_BYTES_MAX)])
            assert found is not None, "our clients write a head in one piece"
            left[number] = found[1]
        left[number] -= got
        if not left[number]:
            wire.sendall(ANSWER)
    except OSError:
        return False
    return True


def main() -> None:
    port, processes = int(sys.argv[1]), int(sys.argv[2])
    listener = socket.create_server(("127.0.0.1", port), backlog=2048)
    for _ in range(processes - 1):
        if not os.fork():
            break
    serve(listener)


if __name__ == "__main__":
    main()
