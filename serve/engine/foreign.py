"""Objects of foreign code (a script's, a framework's) as plain types of our own. Nothing here raises, unless it says so.

Any look at a foreign object may run foreign code: `str(x)`, `bool(x)`, `len(x)`, `getattr`, `isinstance` through a `__class__`
that lies, a method that a subclass of str has of its own, `e.__cause__` of an exception. What comes from here is exactly str,
bytes or int, never a subclass, and may be handled like anything of ours. What a script returns is looked at inside
`guarded` (script_guard.py), so only the text about it has to be made without a raise.
"""

from __future__ import annotations

import traceback
from numbers import Number
from typing import Any

from evenkeel.serve.errors import FAMILIES, EvenkeelError

TEXT_CHARS_MAX = 1000  # of what an exception says
TEXT_CHARS_READ = 16 * TEXT_CHARS_MAX  # of a text with many blanks or lines, before it is made one line
KIND_CHARS_MAX = 100
CHAIN_MAX = 256  # exceptions that one was raised from or beside
FRAMES_MAX = 8  # of a traceback, the last ones
TRACE_CHARS_MAX = 16_000
STATUS_MIN, STATUS_MAX = 100, 599

# The interpreter's own accessors: a class or a metaclass may put something else under these names.
_name_of = type.__dict__["__name__"].__get__
_mro_of = type.__dict__["__mro__"].__get__
_cause_of = BaseException.__dict__["__cause__"].__get__
_context_of = BaseException.__dict__["__context__"].__get__
_traceback_of = BaseException.__dict__["__traceback__"].__get__


def kinds_of(x: object) -> tuple[type, ...]:
    """Its true class and that one's bases, whatever `__class__` says."""
    kinds: tuple[type, ...] = _mro_of(type(x))
    return kinds


def kind_of(x: object) -> str:
    """The name of its class, for people."""
    return _one_line(name_of(type(x)))[:KIND_CHARS_MAX]


def name_of(kind: type) -> str:
    return str.__str__(_name_of(kind))


def cause_of(e: BaseException) -> BaseException | None:
    cause: BaseException | None = _cause_of(e)
    return cause


def let_go(error: BaseException) -> None:
    """Once it has been told: its frames, and those of what it came from, hold the request and, by the lists that they fill, the
    error itself. Such a cycle would keep each body until the collector comes, which counts objects and no bytes."""
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left and len(seen) < CHAIN_MAX:
        each = left.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            BaseException.with_traceback(each, None)
            left += (_cause_of(each), _context_of(each))


def root_of(failure: EvenkeelError, e: BaseException) -> BaseException:
    """What an error of ours was made of, else the exception itself."""
    cause = cause_of(failure)
    return e if cause is None else cause


def frames_of(e: BaseException) -> traceback.StackSummary:
    """Where it has been, the innermost last."""
    return traceback.extract_tb(_traceback_of(e))


def attribute(x: object, name: str, otherwise: Any = None) -> Any:
    """An attribute, or `otherwise` where it has none or looking for it fails."""
    try:
        return getattr(x, name, otherwise)
    except BaseException:
        return otherwise


def text_of(x: object) -> str:
    """What str() makes of it, cut; or that it cannot be read."""
    try:
        return str.__str__(str(x))[:TEXT_CHARS_READ]
    except BaseException as e:
        return f"(its __str__ raised {kind_of(e)})"


def said(e: BaseException, chars_max: int = TEXT_CHARS_MAX) -> str:
    """An exception in one line: its class and its message."""
    words = _one_line(text_of(e))
    text = f"{kind_of(e)}: {words}" if words else kind_of(e)
    return text if len(text) <= chars_max else text[:chars_max] + "…"


def trace_of(e: BaseException) -> str:
    """The traceback, or what could be had of it."""
    try:
        text = "".join(traceback.format_exception(e, limit=-FRAMES_MAX))
        return text if len(text) <= TRACE_CHARS_MAX else "…" + text[-TRACE_CHARS_MAX:]
    except BaseException as error:
        return f"{said(e)} (its traceback cannot be shown: {kind_of(error)})"


def ours(e: BaseException) -> EvenkeelError | None:
    """One of our errors, with a message that is plain text; None: it is none. A script may raise ours with any message, or a
    class that it made of one."""
    family = next((f for kind in kinds_of(e) for f in FAMILIES if kind is f), None)
    if family is None:
        return None
    if type(e) is family and type(attribute(e, "message")) is str:
        assert isinstance(e, EvenkeelError)
        return e
    own = family(_one_line(text_of(attribute(e, "message", e)))[:TEXT_CHARS_MAX])
    own.__cause__ = e
    return own


def _one_line(text: str) -> str:
    return " ".join(text.split())


# Values that a script sets or returns. These may raise, and are called where that is caught -------------------------------------


def plain(x: object) -> str | bytes | None:
    """The text or the bytes that it is, without what a subclass makes of them; None: it is neither."""
    kind = type(x)
    if kind is str or kind is bytes:
        return x  # type: ignore[return-value]
    if issubclass(kind, str):
        return str.__str__(x)
    if issubclass(kind, bytes):
        return bytes.__getitem__(x, slice(None))  # type: ignore[call-overload, no-any-return]
    return bytes(x) if issubclass(kind, bytearray | memoryview) else None  # type: ignore[call-overload]


def value_of_header(value: object) -> str:
    """The text of a header's value: text, bytes, numbers, and all whose class has a text of its own (UUID, date). "" for None.
    Raises TypeError."""
    if value is None:
        return ""
    text = plain(value)
    if text is not None:
        return text if isinstance(text, str) else text.decode("latin-1")
    if isinstance(value, Number) or type(value).__str__ is not object.__str__:
        return str.__str__(str(value))
    raise TypeError(f"the value of a header must be text, not {kind_of(value)}")


def name_of_header(name: object) -> str:
    """In lower case. Raises TypeError."""
    text = plain(name)
    if text is None:
        raise TypeError(f"the name of a header must be text, not {kind_of(name)}")
    return (text if isinstance(text, str) else text.decode("latin-1")).lower()


def status_of(value: object) -> int:
    """An HTTP status out of whatever says one: 400, "400", HTTPStatus.BAD_REQUEST. Raises ValueError."""
    try:
        code = int(value)  # type: ignore[call-overload]
        says = type(value) is not bool and (not isinstance(value, float) or code == value)
    except BaseException:
        says = False
    if not says or not STATUS_MIN <= code <= STATUS_MAX:
        raise ValueError(f"a status is a number from {STATUS_MIN} to {STATUS_MAX}, not {_short(value)}")
    return int(code)


def _short(value: object) -> str:
    """A number or a text as it is, anything else by its class."""
    text = plain(value)
    if text is None and type(value) is not int and type(value) is not float:
        return kind_of(value)
    return repr(value if text is None else text[:40])[:60]
