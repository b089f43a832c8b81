"""What the user's handler raised for a request: told to its caller, and written to the log under the request's id."""

from __future__ import annotations

from evenkeel.serve.batching.item import Item
from evenkeel.serve.contract.logline import log
from evenkeel.serve.engine.cycle.handler_request import raw_request
from evenkeel.serve.engine.cycle.replies import Replies
from evenkeel.serve.engine.failures import translated
from evenkeel.serve.engine.foreign import let_go, root_of, trace_of
from evenkeel.serve.errors import EvenkeelError, ModelFailed, OutOfMemory


def fails(replies: Replies, item: Item, error: Exception, requests: int) -> bool:
    """Tell it so, one of `requests` that ran together. True: it has not been told, since it may fit into memory when it runs
    with fewer."""
    failure = translated(error)
    together = isinstance(failure, OutOfMemory) and requests > 1
    if not together:
        tell_of(item, error, failure)
        replies.fault(item, failure)
    let_go(error)
    return together


def tell_of(item: Item, error: BaseException, failure: EvenkeelError) -> None:
    """What a handler raised, in the log under the request's id."""
    if isinstance(failure, ModelFailed | OutOfMemory) or failure.to_log:
        trace = trace_of(root_of(failure, error))
        log("handler_error", failure.message, request_id=raw_request(item).request_id, traceback=trace)
