"""ListObjectsV2: a page of sorted keys, with what a delimiter rolls up. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

KEYS_MAX = 1000  # D: a page


@dataclass(frozen=True, slots=True)
class KeysWanted:
    """`after`: keys up to and including it are left out; it is StartAfter or the last of the page before."""

    prefix: str = ""
    delimiter: str = ""
    after: str = ""
    most: int = KEYS_MAX


@dataclass(frozen=True, slots=True)
class KeysPage:
    """`last` is where the next page goes on, or nothing."""

    keys: tuple[str, ...]
    prefixes: tuple[str, ...]
    last: str


def page_of(keys: Iterable[str], wanted: KeysWanted) -> KeysPage:
    """`keys` in the order of their bytes in UTF-8, as S3 has them."""
    found: list[str] = []
    prefixes: list[str] = []
    last = ""
    for key in keys:
        if not key.startswith(wanted.prefix):
            continue
        cut = key.find(wanted.delimiter, len(wanted.prefix)) if wanted.delimiter else -1
        shown = key if cut < 0 else key[: cut + len(wanted.delimiter)]
        is_told_before = wanted.after and (key <= wanted.after or (cut >= 0 and wanted.after.startswith(shown)))
        if is_told_before or (cut >= 0 and prefixes[-1:] == [shown]):
            continue
        if len(found) + len(prefixes) == wanted.most:
            return KeysPage(tuple(found), tuple(prefixes), last)
        (found if cut < 0 else prefixes).append(shown)
        last = shown
    return KeysPage(tuple(found), tuple(prefixes), "")
