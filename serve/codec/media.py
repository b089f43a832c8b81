"""Content-Type and Accept, as text. Nothing here knows which formats exist, and nothing here raises on junk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

# Quoted strings may hold separators, and a backslash escapes inside them. An open quote runs to the end, so that every
# alternative succeeds where it starts and hostile quotes cost no more than their length.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"?|[^",;]++|.', re.DOTALL)
HEADERS_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class Media:
    """A parsed Content-Type: `mime` in lower case without parameters; parameter names in lower case too."""

    mime: str
    params: Mapping[str, str]


@lru_cache(maxsize=HEADERS_REMEMBERED)
def parse_media(value: str) -> Media:
    mime, *rest = split(value, ";") or [""]
    params: dict[str, str] = {}
    for part in rest:
        key, _, text = part.partition("=")
        text = text.strip()
        if len(text) >= 2 and text[0] == text[-1] == '"':
            text = re.sub(r"\\(.)", r"\1", text[1:-1])
        if key.strip():
            params.setdefault(key.strip().lower(), text)
    return Media(mime.strip().lower(), MappingProxyType(params))


@lru_cache(maxsize=HEADERS_REMEMBERED)
def accepted(accept: str) -> tuple[tuple[str, float], ...]:
    """(MIME type or wildcard, q) of an Accept header, best first, ties in the order given, refusals (q=0) last."""
    ranges = []
    for part in split(accept, ","):
        media = parse_media(part)
        if media.mime:
            mime = "*/*" if media.mime == "*" else media.mime  # Java's URLConnection says "*; q=.2"
            ranges.append((mime, _quality(media.params.get("q", "1"))))
    return tuple(sorted(ranges, key=lambda one: -one[1]))


def _quality(text: str) -> float:
    """Between 0 and 1; what is no number counts as 1, as if it had been left out."""
    return min(1.0, float(text)) if re.fullmatch(r"[0-9]{0,3}\.?[0-9]{0,8}", text) and text.strip(".") else 1.0


def split(value: str, mark: str) -> list[str]:
    if '"' not in value:
        return value.split(mark) if value else []
    parts: list[list[str]] = [[]]
    for token in _TOKEN.findall(value):
        if token == mark:
            parts.append([])
        else:
            parts[-1].append(token)
    return ["".join(part) for part in parts]
