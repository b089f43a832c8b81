"""Public collections of HTTP requests, sent to a running server as they are. They are not ours, so they do not lie here.

    python -m tests.support.corpora PORT FOLDER…

A folder is either gunicorn's `tests/requests` (from its source archive), with `valid` and `invalid` below, or llhttp's
`test/request` with its Markdown files. For each request one line is printed: what it should be, what the server said, and
the request's name; those that differ come first. A difference is not always a fault: what gunicorn takes by an option, or
llhttp in a lenient mode, may be refused here. What was a fault has become a case in tests/security/cases.py.
"""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"<!-- meta=(.*?) -->\s*```http\n(.*?)```\s*```log\n(.*?)```", re.S)
SECTION = re.compile(r"^#+ (.*)$", re.M)


@dataclass(frozen=True)
class Case:
    name: str
    data: bytes
    good: bool  # by the collection's own word


def gunicorn(folder: Path) -> Iterator[Case]:
    """Lines with their ends written out; what ends a line in the file means nothing."""
    for path in sorted(folder.rglob("*.http")):
        text = path.read_bytes().replace(b"\r", b"").replace(b"\n", b"")
        for mark, byte in ((b"\\r", b"\r"), (b"\\n", b"\n"), (b"\\t", b"\t"), (b"\\0", b"\0")):
            text = text.replace(mark, byte)
        yield Case(f"{path.parent.name}/{path.name}", text, path.parent.name == "valid")


def llhttp(folder: Path) -> Iterator[Case]:
    """A line end in the file is CRLF; `\\r` and `\\n` are written out where they stand alone, and a backslash joins lines."""
    for path in sorted(folder.glob("*.md")):
        text = path.read_text()
        for block in BLOCK.finditer(text):
            title = SECTION.findall(text[: block.start()])[-1]
            raw = block[2].replace("\\\n", "").replace("\n", "\r\n")
            for mark, char in (("\\r", "\r"), ("\\n", "\n"), ("\\t", "\t"), ("\\f", "\f")):
                raw = raw.replace(mark, char)
            yield Case(f"{path.stem}: {title}", raw.encode("latin-1", "replace"), "error code" not in block[3])


def answer_to(port: int, data: bytes) -> bytes:
    """Everything the server says until it closes or has been silent for a while."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        try:
            sock.sendall(data)
            sock.settimeout(0.3)
            while more := sock.recv(65536):
                found += more
        except TimeoutError:
            return found
        except OSError:
            pass
    return found + b"<closed>"


def main(port: int, folders: list[str]) -> int:
    cases = [c for f in map(Path, folders) for c in (llhttp(f) if any(f.glob("*.md")) else gunicorn(f))]
    lines = []
    for case in cases:
        said = answer_to(port, case.data)
        statuses = re.findall(rb"HTTP/1\.1 (\d+)", said)
        refused = any(s in (b"400", b"408", b"413", b"431") for s in statuses)
        words = b"" if not refused else said.partition(b'"message":"')[2].partition(b'"}')[0]
        shown = b" ".join(statuses).decode() or "nothing"
        lines.append((refused is case.good, f"{'good' if case.good else 'bad ':4} -> {shown:12} {case.name}  {words.decode()}"))
    for differs, line in sorted(lines, reverse=True):
        print("DIFFERS" if differs else "       ", line)
    return sum(differs for differs, _ in lines)


if __name__ == "__main__":
    print(main(int(sys.argv[1]), sys.argv[2:]), "differ")
