"""JSONTestSuite's texts, each the body of an /invocations of a running server. They are not ours, so they do not lie here.

    python -m tests.support.json_texts PORT FOLDER

The folder is `test_parsing` (pyjson5's source archive has it). The server serves any model that reads application/json by
itself: tensors with a free dim, or a handler without an input_fn. What must hold: a text that is JSON (`y_`) may be refused for
what it says, but not as JSON; one that is not (`n_`) is 400; where the suite leaves it open (`i_`), anything below 500. A text is
sent as it is, in chunks, with blanks after it (so that it goes the way of large bodies) and as a line of JSON Lines; all
must come to the same. What a model gives back as it was given (an `echo` of float64 or strings) must be what Python reads in the
text. Meanwhile /ping answers within a second.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CALLED_NO_JSON = (
    b"not valid JSON",
    b"JSON has no NaN",
    b"is not application/json",
    b"is not UTF-8",
    b"is empty",
    b"has no lines",
)
BLANKS = b" " * (300 << 10)
ANSWER_S_MAX, PING_S_MAX = 10.0, 1.0
LINES = "application/jsonlines"


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    @property
    def called_no_json(self) -> bool:
        return self.status == 400 and any(words in self.body for words in CALLED_NO_JSON)


def ask(port: int, body: bytes, mime: str = "application/json", *, chunked: bool = False) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S_MAX)
    pieces = (body[at : at + 7] for at in range(0, len(body), 7)) if chunked else body
    connection.request("POST", "/invocations", pieces, {"Content-Type": mime}, encode_chunked=chunked)
    response = connection.getresponse()
    found = Answer(response.status, response.read())
    connection.close()
    return found


def ways(port: int, text: bytes) -> Iterator[tuple[str, Answer]]:
    """The same text in each way that a body can come."""
    yield "as it is", ask(port, text)
    if len(text) < 1000:
        yield "in chunks", ask(port, text, chunked=True)
    if text.strip():
        yield "with blanks", ask(port, text + BLANKS)
    if b"\n" not in text and b"\r" not in text and text.strip():
        lines = ask(port, text, LINES)
        if lines.status != 415:  # handlers have no such reader
            yield "as a line", lines


def faults(name: str, text: bytes, answers: dict[str, Answer]) -> Iterator[str]:
    for way, answer in answers.items():
        if answer.status >= 500:
            yield f"{way}: {answer.status}"
        if name.startswith("y_") and (answer.called_no_json or answer.status not in (200, 400)):
            yield f"{way}: refused as JSON, {answer}"
        if name.startswith("n_") and answer.status != 400:
            yield f"{way}: taken, {answer}"
        if answer.called_no_json is not answers["as it is"].called_no_json:
            yield f"{way}: another opinion, {answer}"
    first = answers["as it is"]
    if first.status == 200 and first.body[:1] == b"[" and not name.startswith("n_"):  # an echo of a bare array
        sent, got = (json.loads(t, parse_int=float) for t in (text, first.body))
        if got not in (sent, [sent]):
            yield f"comes back as {first.body[:60]!r}"


class Pinging(threading.Thread):
    """Asks for /ping over a new connection, again and again, and keeps the longest wait."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port, self.ended, self.longest_s, self.bad = port, threading.Event(), 0.0, 0

    def run(self) -> None:
        while not self.ended.wait(0.02):
            begun_s = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S_MAX)
            connection.request("GET", "/ping")
            self.bad += connection.getresponse().status != 200
            connection.close()
            self.longest_s = max(self.longest_s, time.monotonic() - begun_s)


def main(port: int, folder: str) -> int:
    pinging, found, counts, longest_s = Pinging(port), 0, Counter[str](), 0.0
    pinging.start()
    for path in sorted(Path(folder).glob("*.json")):
        text, begun_s = path.read_bytes(), time.monotonic()
        answers = dict(ways(port, text))
        longest_s = max(longest_s, time.monotonic() - begun_s)
        counts[f"{path.name[:1]} {answers['as it is'].status}"] += 1
        for fault in faults(path.name, text, answers):
            found += 1
            print(f"{path.name} {fault[:200]}")
    pinging.ended.set()
    pinging.join()
    print(dict(sorted(counts.items())), f"longest text {longest_s:.2f} s, longest ping {pinging.longest_s:.2f} s")
    return found + pinging.bad + (pinging.longest_s > PING_S_MAX)


if __name__ == "__main__":
    print(main(int(sys.argv[1]), sys.argv[2]), "faults")
