"""What a connection of the data port writes but for answers of 200 in one piece: errors, streams, /ping.

An answer begins in state ANSWERING and ends in IDLE, or ends the connection; see connection_state.py. This file never reads.
"""

from __future__ import annotations

from evenkeel.serve.contract.lifecycle import Reason, Verdict
from evenkeel.serve.errors import EvenkeelError
from evenkeel.serve.front.http import answers
from evenkeel.serve.front.http.answers import PING_OK, PING_OK_LAST, name_line, refusal, stream_head
from evenkeel.serve.front.http.connections import Connections
from evenkeel.serve.front.http.silence import JUST_NOW, Silence
from evenkeel.serve.front.request.answer_streams import last_words
from evenkeel.serve.front.request.invocation import AnswerStream, Invocation
from evenkeel.serve.http.connection import Connection
from evenkeel.serve.http.connection_state import ConnectionState


class Answering(Connection):
    """The half of a connection that answers."""

    connections: Connections
    silence: Silence

    def answered(self, keep_alive: bool) -> None:
        self.silence.quiet_since_s = JUST_NOW
        super().answered(keep_alive)

    def answer_error(self, invocation: Invocation, error: EvenkeelError) -> None:
        """A small JSON error with Content-Length, and the connection goes on. In the middle of a stream it is one more record,
        and the connection ends without the stream's own end."""
        if invocation.stream is not None:
            self._break_stream(invocation, invocation.stream, error)
            return
        self.transport.write(refusal(error, invocation.keep_alive, invocation.head.is_head, name_line(invocation)))
        self.answered(invocation.keep_alive)

    def open_stream(self, invocation: Invocation, content_type: str, extra: bytes) -> None:
        """A 200 whose body comes in parts."""
        if not invocation.delimited:
            invocation.keep_alive = False
        if self.state is ConnectionState.ANSWERING:
            self.move(ConnectionState.STREAMING)
        self.transport.write(stream_head(invocation, content_type, extra))

    def write_part(self, invocation: Invocation, part: bytes) -> bool:
        """One chunk, at once. Returns whether the client keeps up."""
        self.transport.write(answers.part(invocation, part))
        return not self.flow.write_paused

    def end_stream(self, invocation: Invocation) -> None:
        if invocation.delimited:
            self.transport.write(b"0\r\n\r\n")
        self.answered(invocation.keep_alive)

    def _break_stream(self, invocation: Invocation, stream: AnswerStream, error: EvenkeelError) -> None:
        words = last_words(stream, error)
        if words:
            self.write_part(invocation, words)
        self.answered(keep_alive=False)

    def answer_ping(self, invocation: Invocation) -> None:
        invocation.caller = None
        verdict = self.connections.page.verdict()
        if verdict.ready and self.connections.invocations.engines.reach.is_apart:  # others may be ready: not this worker
            verdict = Verdict(False, Reason.NOT_CONNECTED)
        if verdict.ready:
            self.transport.write(PING_OK if invocation.keep_alive else PING_OK_LAST)
        else:
            self.transport.write(refusal(answers.not_ready(verdict), invocation.keep_alive, invocation.head.is_head))
        self.answered(invocation.keep_alive)
