"""A body of lines, a piece at a time: what a piece becomes may take many times its bytes, so only one is held."""

from __future__ import annotations

from collections.abc import Iterator

from serve.codec.codec import Body

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
