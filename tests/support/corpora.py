"""Public collections of HTTP requests, sent to a running server as they are. They are not ours, so they do not lie here.

    python -m tests.support.corpora PORT FOLDER…

A folder is either gunicorn's `tests/requests` (from its source archive), with `valid` and `invalid` below, or llhttp's
`test/request` with its Markdown files (aiohttp's source archive has them). For each request one line is printed: what it should
be, what the server said, and the request's name; those that differ come first. A difference is not always a fault: what
gunicorn takes by an option may be refused here, and what llhttp takes in a lenient mode may go either way. Of llhttp's, which
says where each message ends, the number of answers must agree as well. What was a fault has become a case in
tests/security/cases.py. Texts of JSON are tests/support/json_texts.py.
"""

from __future__ import annotations

import contextlib
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"<!-- meta=(.*?) -->\s*```http\n(.*?)```.*?```log\n(.*?)```", re.S)
SECTION = re.compile(r"^#+ (.*)$", re.M)
FAULT = re.compile(r"error code=(?!22\b)")  # 22: it stops where a client offers to upgrade
HEX = re.compile(rb"\\x([0-9A-Fa-f]{2})")
REQUEST_LINE = re.compile(rb"(?<= HTTP/1\.1\r\n)")
SILENCE_S = 0.3
END_OF_HEAD = b"\r\n\r\n"  # many of the bad ones are only beginnings
REFUSALS = (b"400", b"408", b"413", b"431")


@dataclass(frozen=True)
class Case:
    name: str
    data: bytes
    good: bool | None  # by the collection's own word; None: it takes this in a lenient mode
    answers: int | None = None  # to how many requests, where the collection says it


def gunicorn(folder: Path) -> Iterator[Case]:
    """Lines with their ends written out; what ends a line in the file means nothing."""
    for path in sorted(folder.rglob("*.http")):
        text = path.read_bytes().replace(b"\r", b"").replace(b"\n", b"")
        for mark, byte in ((b"\\r", b"\r"), (b"\\n", b"\n"), (b"\\t", b"\t"), (b"\\0", b"\0")):
            text = text.replace(mark, byte)
        text = HEX.sub(lambda found: bytes.fromhex(found[1].decode()), text)
        yield Case(f"{path.parent.name}/{path.name}", text, path.parent.name == "valid")


def llhttp(folder: Path) -> Iterator[Case]:
    """A line end in the file is CRLF; `\\r` and `\\n` are written out where they stand alone, and a backslash joins lines. The
    last line end is that of the Markdown."""
    for path in sorted(folder.glob("*.md")):
        text = path.read_text()
        for block in BLOCK.finditer(text):
            title = SECTION.findall(text[: block.start()])[-1]
            raw = block[2].removesuffix("\n").replace("\\\n", "").replace("\n", "\r\n")
            for mark, char in (("\\r", "\r"), ("\\n", "\n"), ("\\t", "\t"), ("\\f", "\f")):
                raw = raw.replace(mark, char)
            good = None if "lenient" in block[1] else not FAULT.search(block[3])
            ends = block[3].count("message complete") if good else None
            yield Case(f"{path.stem}: {title}", with_hosts(raw.encode()), good, ends)


def with_hosts(data: bytes) -> bytes:
    """llhttp asks for no Host, and its requests have none: refused for that, they would try nothing else."""
    return data if b"host:" in data.lower() else REQUEST_LINE.sub(b"Host: localhost\r\n", data)


def answer_to(port: int, data: bytes, end: bytes = b"") -> bytes:
    """Everything the server says until it closes or has been silent for a while. `end` is sent if it says nothing before."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), 5) as sock, contextlib.suppress(OSError):
        sock.settimeout(SILENCE_S)
        for part in (data, end):
            if part and not found:
                sock.sendall(part)
                with contextlib.suppress(TimeoutError):
                    while more := sock.recv(65536):
                        found += more
    return found


def judged(case: Case, said: bytes) -> tuple[bool, str]:
    """Whether the server differs, and the line that tells what it said."""
    statuses = [s for s in re.findall(rb"HTTP/1\.1 (\d+)", said) if s != b"100"]
    refused = any(s in REFUSALS for s in statuses)
    differs = (
        refused is case.good or (case.answers is not None and len(statuses) != case.answers) or b"5" in {s[:1] for s in statuses}
    )
    words = b"" if not refused else said.partition(b'"message":"')[2].partition(b'"}')[0]
    should = {True: "good", False: "bad ", None: "may "}[case.good]
    shown = b" ".join(statuses).decode() or "nothing"
    return differs, f"{should} -> {shown:12} {case.name}  {words.decode()}"


def main(port: int, folders: list[str]) -> int:
    cases = [c for f in map(Path, folders) for c in (llhttp(f) if any(f.glob("*.md")) else gunicorn(f))]
    lines = [judged(case, answer_to(port, case.data, b"" if case.good else END_OF_HEAD)) for case in cases]
    for differs, line in sorted(lines, reverse=True):
        print("DIFFERS" if differs else "       ", line)
    return sum(differs for differs, _ in lines)


if __name__ == "__main__":
    print(main(int(sys.argv[1]), sys.argv[2:]), "differ")
