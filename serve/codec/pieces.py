"""A large body, a piece at a time: what a piece becomes may take many times its bytes, so only one is held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from evenkeel.serve.codec.codec import Array, Body
from evenkeel.serve.codec.codec_plan import CodecPlan
from evenkeel.serve.codec.decoded_size import ARRAY_BYTES_MAX
from evenkeel.serve.codec.json_records import Noun, from_records
from evenkeel.serve.errors import BadRequest

PIECE_BYTES = 64 << 10  # a piece in cache; its Python numbers take about half a megabyte


def whole_lines(body: Body) -> Iterator[bytes]:
    """About a piece of whole lines each time, and a line that is longer whole. The last line need not end."""
    text = memoryview(body)
    begun: list[bytes] = []  # of a line that has not ended yet
    for at in range(0, len(text), PIECE_BYTES):
        piece = bytes(text[at : at + PIECE_BYTES])
        is_last = at + PIECE_BYTES >= len(text)
        cut = len(piece) if is_last else piece.rfind(b"\n") + 1
        if cut:
            yield b"".join([*begun, piece[:cut]])
            begun = []
        if cut < len(piece):
            begun.append(piece[cut:])


def filled(pieces: Iterable[list[Any]], rows: int, plan: CodecPlan, noun: Noun) -> list[Array] | None:
    """The arrays of so many records, which come in pieces. None: they are not what the model takes, or not so many; anyone who
    reads them all at once can say what is wrong."""
    out: list[Array] = []
    done = 0
    try:
        for records in pieces:
            if done + len(records) > rows:
                return None
            arrays = from_records(records, plan, noun)
            if not out:
                if rows * sum(array[:1].nbytes for array in arrays) > ARRAY_BYTES_MAX:
                    return None
                out = [np.empty((rows, *array.shape[1:]), array.dtype) for array in arrays]
            for column, array in zip(out, arrays, strict=True):
                if array.shape[1:] != column.shape[1:]:
                    return None
                column[done : done + len(array)] = array
            done += len(records)
    except (BadRequest, ValueError):  # the latter: not JSON
        return None
    return out if done == rows else None
