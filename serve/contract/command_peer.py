"""One end of a connection that carries commands: whole lines in, lines out, and never a wait.

Owner of its socket and of two bounded buffers. Who sends half a line, or does not take its answers, is `overdue` after a
while; who sends a line that is too long, or more at once than are obeyed, is answered, and then the connection ends.
"""

from __future__ import annotations

import socket

from evenkeel.serve.contract.commands import LINE_BYTES_MAX, Answer, CommandHandler, Later, answer_line, answer_to, busy

LATER_MAX = 8  # requests of one connection that take their time
IN_FLIGHT_MAX = 4  # requests of one connection at once; ours send one and wait for its answer
UNSENT_BYTES_MAX = 4 * LINE_BYTES_MAX
PART_S_MAX = 5.0  # from the first byte of a line to its last, and until an answer is taken
RETRY_S = 1.0


class PeerClosed(Exception):
    """The connection has ended, or is to be ended."""


class CommandPeer:
    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._rest, self._unsent = b"", b""
        self._later: list[Later] = []  # begun, and not answered yet
        self._part_since_s = self._unsent_since_s = 0.0  # 0: no part of a line is here, or waits to go
        self._ending = False

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    @property
    def wants_to_read(self) -> bool:
        """Not while answers wait: who does not take them is asked nothing more."""
        return not self._unsent and not self._ending

    @property
    def wants_to_write(self) -> bool:
        return bool(self._unsent)

    @property
    def idle(self) -> bool:
        return not self._rest and not self._unsent and not self._later

    def overdue(self, now_s: float) -> bool:
        return any(at_s and now_s - at_s > PART_S_MAX for at_s in (self._part_since_s, self._unsent_since_s))

    def read(self, now_s: float) -> list[bytes]:
        """The lines that are complete. Raises PeerClosed."""
        try:
            data = self._sock.recv(LINE_BYTES_MAX)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError as e:
            raise PeerClosed from e
        if not data:
            raise PeerClosed
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not self._rest:
            self._part_since_s = 0.0
        elif lines or not self._part_since_s:
            self._part_since_s = now_s
        if len(self._rest) >= LINE_BYTES_MAX:  # never complete any more; what reads it sees that it is too long
            lines, self._rest, self._ending = [*lines, self._rest + b"\n"], b"", True
        return lines

    def send(self, line: bytes, now_s: float) -> None:
        """Now, or when it can. Raises PeerClosed."""
        if len(self._unsent) + len(line) > UNSENT_BYTES_MAX:
            raise PeerClosed
        self._unsent += line
        self._unsent_since_s = self._unsent_since_s or now_s
        self.flush()

    def flush(self) -> None:
        """Raises PeerClosed, also when the last word has gone out."""
        if self._unsent:
            try:
                sent = self._sock.send(self._unsent, socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as e:
                raise PeerClosed from e
            self._unsent = self._unsent[sent:]
        if not self._unsent:
            self._unsent_since_s = 0.0
            if self._ending:
                raise PeerClosed

    def obey(self, handler: CommandHandler, now_s: float) -> int:
        """Answer what has come. Returns how many requests that were. Raises PeerClosed."""
        lines = self.read(now_s)
        answers: list[Answer] = []
        for line in lines[:IN_FLIGHT_MAX]:
            if len(self._later) >= LATER_MAX:
                answers.append(busy(line, f"at most {LATER_MAX} commands at once", RETRY_S))
                continue
            answer = answer_to(line, now_s, handler)
            self._later.append(answer) if isinstance(answer, Later) else answers.append(answer)
        if len(lines) > IN_FLIGHT_MAX:
            self._ending = True
            answers.append(busy(lines[IN_FLIGHT_MAX], f"at most {IN_FLIGHT_MAX} commands at once", RETRY_S))
        self._answer(answers, now_s)
        return len(lines)

    def refuse(self, message: str, now_s: float) -> None:
        """Say so without having read anything, and end. Raises PeerClosed."""
        self._ending = True
        self._answer([busy(b"", message, RETRY_S)], now_s)

    def answer_due(self, now_s: float) -> None:
        """Those that took their time and are over by now. Raises PeerClosed."""
        if self._later and not self._unsent:
            answers = [(later, later.answer()) for later in self._later]
            self._later = [later for later, answer in answers if answer is None]
            self._answer([answer for _, answer in answers if answer is not None], now_s)

    def _answer(self, answers: list[Answer], now_s: float) -> None:
        if answers:
            self.send(b"".join(answer_line(answer) for answer in answers), now_s)
