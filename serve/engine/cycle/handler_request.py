"""A request as the user's handler gets it, read from its slot."""

from __future__ import annotations

from evenkeel.serve.batching.item import Item
from evenkeel.serve.engine.backends.base import RawRequest
from evenkeel.serve.transport.whole_body import read_start


def raw_request(item: Item) -> RawRequest:
    memory = item.peer.memory
    facts, request_id, body_at = read_start(memory, item.offset)
    body = bytes(memory[body_at : item.offset + item.used])
    return RawRequest(body, facts.content_type, facts.accept, request_id, facts.headers)
