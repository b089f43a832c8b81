"""Prometheus text, read from somebody who may not mean well: samples, or BadMetrics. Pure.

Only lines of the metrics that are asked for are taken apart; of others it is enough that they begin as a sample or a comment
does. The work grows with the length of the text alone, and no message holds a word of it: only the line's number and what
is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from evenkeel.sidecar.rollout.judge_errors import BadMetrics

LINES_MAX = 100_000
LINE_CHARS_MAX = 4096
SAMPLES_MAX = 20_000  # of the metrics asked for
LABELS_MAX = 32
NUMBER_CHARS_MAX = 64

START = re.compile(r"[a-zA-Z_:]")  # of every metric's name
LABEL = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(,|$)')
NUMBER = re.compile(r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|inf|infinity)", re.IGNORECASE | re.ASCII)
TIMESTAMP = re.compile(r"-?[0-9]+")
ESCAPE = re.compile(r"\\(.)")
BLANKS = " \t\r"


@dataclass(frozen=True, slots=True)
class ParsedSample:
    name: str
    labels: Mapping[str, str]
    value: float


def samples(text: str, names: Collection[str]) -> list[ParsedSample]:
    """Those of the metrics `names`. Raises BadMetrics."""
    if text.count("\n") > LINES_MAX:
        raise BadMetrics(f"the text has more than {LINES_MAX} lines")
    parsed: list[ParsedSample] = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            parsed.extend(_of_line(line, names))
        except ValueError as e:
            raise BadMetrics(f"this is not Prometheus text: line {number} {e}") from None
        if len(parsed) > SAMPLES_MAX:
            raise BadMetrics(f"the text has more than {SAMPLES_MAX} samples of ours")
    return parsed


def _of_line(line: str, names: Collection[str]) -> Iterator[ParsedSample]:
    """None or one. Raises ValueError that says what is wrong."""
    if len(line) > LINE_CHARS_MAX:
        raise ValueError(f"has more than {LINE_CHARS_MAX} characters")
    line = line.strip(BLANKS)
    if not line or line[0] == "#":
        return
    if not START.match(line):
        raise ValueError("is neither a sample nor a comment")
    head, brace, rest = line.partition("{")
    if not brace:
        head, _, rest = line.replace("\t", " ").partition(" ")
    name = head.rstrip(BLANKS)
    if name not in names:
        return
    labels = ""
    if brace:
        labels, brace, rest = rest.rpartition("}")
        if not brace:
            raise ValueError("has labels without an end")
    yield ParsedSample(name, _labels(labels), _value(rest.split()))


def _labels(text: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    place = 0
    while text[place:].strip(BLANKS):
        label = LABEL.match(text, place)
        if label is None:
            raise ValueError("has a label that cannot be read")
        name, value, _ = label.groups()
        if name in labels:
            raise ValueError("has a label twice")
        if len(labels) >= LABELS_MAX:
            raise ValueError(f"has more than {LABELS_MAX} labels")
        labels[name] = ESCAPE.sub(_unescaped, value) if "\\" in value else value
        place = label.end()
    return labels


def _unescaped(escape: re.Match[str]) -> str:
    return "\n" if escape[1] == "n" else escape[1]


def _value(fields: list[str]) -> float:
    """Of a value that may have a time behind it."""
    if not 1 <= len(fields) <= 2 or max(map(len, fields)) > NUMBER_CHARS_MAX:
        raise ValueError("has no value that can be read")
    if not NUMBER.fullmatch(fields[0]) or not all(map(TIMESTAMP.fullmatch, fields[1:])):
        raise ValueError("has no value that can be read")
    return float(fields[0])
