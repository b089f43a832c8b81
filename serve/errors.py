"""One family of errors: everything the world can do wrong, and what the client is told about it.

Each class carries a stable code, an HTTP status and whether the same request may succeed later. Foreign exceptions
are translated into one of these where they enter; whatever else escapes is our own bug and answers 500.
This file knows nothing of HTTP frames, sockets or tensors.
"""

from __future__ import annotations


class EvenkeelError(Exception):
    """Base of all expected errors. `message` is for the client: what is wrong, where, and what to do."""

    code = "internal"
    status = 500
    retry_s: float | None = None  # the hint, where the one who raises it has no better one
    to_log = (
        False  # whether it is worth a line although its caller is told: a script's word about what was not its caller's fault
    )
    shed = ""  # what there was too much of, when the request was refused for load alone

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = self.retry_s if retry_after_s is None else retry_after_s


class BadRequest(EvenkeelError):
    """The body cannot be read as what its Content-Type says, or does not fit the model's inputs."""

    code, status = "bad_request", 400


class BadShape(BadRequest):
    """A readable body whose rank, shape, dtype or column count does not fit the model."""

    code = "bad_shape"


class NotFinite(BadRequest):
    """An input holds NaN or an infinity and the manifest does not allow it."""

    code = "not_finite_input"


class NotFound(EvenkeelError):
    code, status = "not_found", 404


class MethodNotAllowed(EvenkeelError):
    code, status = "method_not_allowed", 405
    allow = ""  # the methods that are possible there


class NotAcceptable(EvenkeelError):
    code, status = "not_acceptable", 406


class BodyTimeout(EvenkeelError):
    """The client stopped sending in the middle of a request."""

    code, status = "body_timeout", 408


class HeaderTimeout(BodyTimeout):
    """The head of a request took too long to come."""

    code = "header_timeout"


class BodyTooLarge(EvenkeelError):
    """`needed`: bytes of memory that decoding it would take, where that is what there is too much of."""

    code, status = "body_too_large", 413

    def __init__(self, message: str, needed: int = 0) -> None:
        super().__init__(message)
        self.needed = needed


class UnsupportedMedia(EvenkeelError):
    code, status = "unsupported_media_type", 415


class HeadersTooLarge(EvenkeelError):
    code, status = "headers_too_large", 431


class Overloaded(EvenkeelError):
    """Refused at the door: the queue is full, or the wait would outlast the deadline."""

    code, status = "overloaded", 429
    retry_s = 1.0
    shed = "rows"  # as many wait as may wait


class TooManyBytes(Overloaded):
    """As many bytes of requests are held as may be held."""

    shed = "bytes"


class WaitTooLong(Overloaded):
    """By the learned cost of what is queued the answer would come after the deadline."""

    shed = "wait"


class NotReady(EvenkeelError):
    code, status = "not_ready", 503
    retry_s = 1.0


class TooManyConnections(NotReady):
    """As many connections are open as may be; only /ping is still answered on new ones."""

    code = "too_many_connections"
    shed = "connections"


class TooManyArriving(Overloaded):
    """The bodies that are being received would take more memory than they may."""

    shed = "bytes"


class EngineLost(EvenkeelError):
    """The engine ended while it held the request, and running it again was not possible."""

    code, status = "engine_lost", 503
    retry_s = 1.0


class DeadlineExceeded(EvenkeelError):
    code, status = "deadline_exceeded", 504
    retry_s = 1.0


class ModelFailed(EvenkeelError):
    """The model or the user's handler raised, or returned something that cannot be an answer."""

    code, status = "model_error", 500


class OutputNotFinite(ModelFailed):
    """An output holds NaN or an infinity, which strict JSON cannot carry."""

    code = "not_finite_output"


class BadModel(EvenkeelError):
    """The model folder cannot be served: file missing, truncated, of another format, or a wrong manifest."""

    code, status = "bad_model", 500


class BadSetting(EvenkeelError):
    """A setting is out of range or contradicts another; the message names it and its origin."""

    code, status = "bad_setting", 500


class Cancelled(EvenkeelError):
    """The caller has left. Nobody reads this answer; it only travels inside."""

    code, status = "cancelled", 499


class PoisonedRequest(EvenkeelError):
    """The engine ended twice while it ran this request. The model's fault, so 500; and no hint to try again."""

    code, status = "poisoned_request", 500


class OutOfMemory(EvenkeelError):
    """One item alone does not fit into the memory that the model may use."""

    code, status = "out_of_memory", 507


class TooManyRows(EvenkeelError):
    """By the learned cost of a row, this request could not be answered within its deadline even if it were alone."""

    code, status = "too_many_rows", 413


class ModelExists(EvenkeelError):
    """A model of that name is loaded already."""

    code, status = "model_exists", 409


class NoRoom(EvenkeelError):
    """A model that was to be loaded finds no room; nothing else was harmed."""

    code, status = "no_room", 507


def families() -> tuple[type[EvenkeelError], ...]:
    """Every error class, in definition order: the wire number of an error is its place here."""
    classes: list[type[EvenkeelError]] = [EvenkeelError]
    classes += [c for c in globals().values() if isinstance(c, type) and issubclass(c, EvenkeelError) and c not in classes]
    return tuple(classes)


STATUS_MIN, STATUS_MAX = 400, 599  # of an error
RETRIED = (429, 503, 504)  # statuses that say when to come back
RETRY_S = 1.0


def with_status(error: EvenkeelError, status: int) -> EvenkeelError:
    """The same error under a status that a script chose. 0, or no status of an error: its own."""
    if STATUS_MIN <= status <= STATUS_MAX and status != error.status:
        error.status = status
        error.retry_after_s = RETRY_S if status in RETRIED else error.retry_after_s
    return error


def chosen_status(error: EvenkeelError, family: type[EvenkeelError]) -> int:
    """The status that a script chose for an error of this family; 0: none. A script may raise ours, and set anything on it."""
    status = error.status
    return status if type(status) is int and STATUS_MIN <= status <= STATUS_MAX and status != family.status else 0


FAMILIES = families()
NUMBER = {family: number for number, family in enumerate(FAMILIES)}
