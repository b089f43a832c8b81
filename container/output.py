"""What a child writes on its own stdout and stderr, below our log: user code, native libraries, a crash's last words.

Read here, in the supervisor, because it must also be read when the child has just died. Each line becomes one event.
"""

from __future__ import annotations

import os

from serve.contract.logline import log

READ_BYTES = 65536
LINE_BYTES_MAX = 3000  # of a line without an end; the rest follows as a line of its own


class Output:
    """One child's pipe. Owner of its reading end."""

    def __init__(self, fd: int, source: str) -> None:
        os.set_blocking(fd, False)
        self.fd, self._source, self._rest = fd, source, b""

    def read(self) -> bool:
        """Log what has come. False at the end of the pipe."""
        while True:
            try:
                data = os.read(self.fd, READ_BYTES)
            except BlockingIOError:
                return True
            except OSError:
                data = b""
            *lines, self._rest = (self._rest + data).split(b"\n")
            if not data or len(self._rest) > LINE_BYTES_MAX:
                lines, self._rest = [*lines, self._rest], b""
            for line in lines:
                if line:
                    log("output", line.decode("utf-8", "replace"), source=self._source)
            if not data:
                return False

    def close(self) -> None:
        self.read()
        os.close(self.fd)
