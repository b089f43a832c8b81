"""Cuts one batch out of a queue: whole requests where they fit, parts of large ones, in the queue's order.

Also the shape buckets: free dims are rounded up so that requests of nearly equal size can share a batch, with a bound
on the share of padding. Pure.
"""

from __future__ import annotations

import math
from collections import deque

from evenkeel.serve.batching.item import Item, Segment

BUCKET_MIN = 8  # below this size each length is a bucket of its own: padding would be mostly waste


def place(queue: deque[Item], rows: int, now_s: float) -> list[Segment]:
    """Take up to `rows` rows from the queue. Items that ended meanwhile are skipped; late ones are left out.

    Wholly placed items leave the queue; a partly placed one stays at its head with `placed` advanced.
    """
    segments: list[Segment] = []
    left = rows
    while queue and left:
        item = queue[0]
        if item.gone or (item.deadline_s <= now_s and item.placed == 0):
            queue.popleft()
            continue
        count = min(item.rows - item.placed, left)
        segments.append(Segment(item, item.placed, count))
        item.placed += count
        left -= count
        if item.placed == item.rows:
            queue.popleft()
    return segments


def bucket_edge(size: int, waste: float) -> int:
    """The smallest bucket edge >= size. Edges grow by 1/(1 - waste), so at most `waste` of a bucket is padding."""
    if size <= BUCKET_MIN or waste <= 0:
        return size
    edge = BUCKET_MIN
    while edge < size:
        edge = max(edge + 1, math.floor(edge / (1 - waste)))
    return edge
