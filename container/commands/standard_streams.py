"""Standard output and errors of a command, made such that writing to them does not end it."""

from __future__ import annotations

import codecs
import io
import os
import sys

MARKS = {"\u00b7": "-", "\u2013": "-", "\u2026": "..."}  # the middle dot, the dash and the ellipsis, where an encoding lacks them


def make_writable() -> None:
    """Where one was closed Python has no stream at all; and of what its encoding lacks a plainer mark is shown, or a `?`."""
    codecs.register_error("plain_marks", plainer)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  for as long as we live
    if isinstance(sys.stdout, io.TextIOWrapper):  # errors are written with such characters escaped already
        sys.stdout.reconfigure(errors="plain_marks")


def plainer(e: UnicodeError) -> tuple[str, int]:
    if not isinstance(e, UnicodeEncodeError):
        raise e
    return "".join(MARKS.get(mark, "?") for mark in e.object[e.start : e.end]), e.end


def leave_unread() -> None:
    """Nobody reads on, or there is no room: Python would complain once more when it closes stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
