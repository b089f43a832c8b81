r"""The patterns of AWS's models are Java's regular expressions. Here they become Python's.

What differs in them: classes by property (`\p{L}`, `\p{ASCII}`), the horizontal space `\h`, intersections (`&&`), ranges of
surrogates, which Java needs for what lies beyond U+FFFF, and `\Z` and `\z` at the end.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from functools import cache

TIMES = re.compile(r"\{\d+(,\d*)?\}")
POSIX = {
    "ASCII": r"\x00-\x7f", "Print": r"\x20-\x7e", "Graph": r"\x21-\x7e", "Alnum": "a-zA-Z0-9", "Alpha": "a-zA-Z",
    "Digit": "0-9", "Lower": "a-z", "Upper": "A-Z", "Space": r"\t\n\x0b\f\r\x20", "Punct": r"!-/:-@\[-`{-~", "Blank": r"\t\x20",
    "XDigit": "0-9a-fA-F", "Cntrl": r"\x00-\x1f\x7f",
}  # fmt: skip
PROPERTY = re.compile(r"\\([pP])(?:\{(?:Is)?(\w+)\}|(\w))")
SURROGATES = re.compile(r"\\uD800\\uDC00-\\uDBFF\\uDFFF", re.IGNORECASE)
BEYOND = "\U00010000-\U0010ffff"
LAST_USED, FIRST_TAG, LAST_ASSIGNED = 0x323AF, 0xE0000, 0xE0FFF  # private planes have no letters


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """Of a pattern that must fit the whole value. Raises re.error where Python cannot say it; a test compiles every one."""
    return re.compile(rf"(?:{translated(pattern)})\Z", re.ASCII)


def translated(pattern: str) -> str:
    text = SURROGATES.sub(lambda _: BEYOND, pattern)
    parts: list[str] = []
    at, in_class = 0, False
    while at < len(text):
        if text[at] == "$" and not in_class and (times := TIMES.match(text, at + 1)):
            parts.append("$")  # an end of text that is there n times is there
            at = times.end()
            continue
        if found := PROPERTY.match(text, at):
            parts.append(_property(found, in_class))
            at = found.end()
            continue
        piece = text[at : at + 2] if text[at] == "\\" else text[at]
        at += len(piece)
        if piece == "[" and in_class:
            piece = r"\["
        elif piece in ("[", "]"):
            in_class = piece == "["
        parts.append({r"\h": r"\t\x20" if in_class else r"[\t\x20]", r"\z": r"\Z"}.get(piece, piece))
    return "".join(parts)


def _property(found: re.Match[str], in_class: bool) -> str:
    """Members of the class, in brackets where there are none around it."""
    name = found[2] or found[3]
    chars = POSIX.get(name) or _category(name)
    if found[1] == "P":
        assert not in_class, f"no pattern of AWS's has {found[0]} inside of a class"
        return f"[^{chars}]"
    return chars if in_class else f"[{chars}]"


@cache
def _category(name: str) -> str:
    """The ranges of a category of Unicode's, such as L or Nd."""
    ranges: list[str] = []
    start = 0
    for code, category in [*_categories(), (LAST_ASSIGNED + 1, "")]:
        fits = category.startswith(name)
        if fits and not start:
            start = code
        elif not fits and start:
            ranges.append(f"\\U{start:08x}-\\U{code - 1:08x}")
            start = 0
    if not ranges:
        raise re.error(f"no category of Unicode's is called {name}")
    return "".join(ranges)


@cache
def _categories() -> list[tuple[int, str]]:
    """Where a category begins in the order of Unicode, and which. Planes that are not in use are left out: they take a second."""
    found: list[tuple[int, str]] = []
    for code in itertools.chain(range(1, LAST_USED + 1), range(FIRST_TAG, LAST_ASSIGNED + 1)):
        category = unicodedata.category(chr(code))
        if not found or found[-1][1] != category:
            found.append((code, category))
    return found
