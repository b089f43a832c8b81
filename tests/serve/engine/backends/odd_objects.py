"""Objects that break what looks at them, as scripts make them by mistake or by trying. For the tests of handlers.

Each maker has a name that a failing test prints; each call makes a new object, so that no test spoils another's.
"""

from __future__ import annotations

import asyncio
import decimal
import io
import uuid
from collections.abc import Callable, Iterator
from datetime import date
from http import HTTPStatus
from typing import Any

import numpy as np


def refuse(*_: Any, **__: Any) -> Any:
    raise RuntimeError("do not look at me")


def leave(*_: Any, **__: Any) -> Any:
    raise SystemExit(3)


def odd_class(name: str, base: type = object, **members: Any) -> Any:
    return type(name, (base,), members)


class Surly:
    """Every attribute that it does not have raises something else than AttributeError."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name} here")


class Liar:
    """isinstance believes that it is a str."""

    @property
    def __class__(self) -> Any:
        return str

    @__class__.setter
    def __class__(self, kind: Any) -> None:
        raise TypeError


class Untouchable:
    """Nothing that Python may ask of an object is answered."""

    __str__ = __repr__ = __len__ = __bool__ = __iter__ = __hash__ = __eq__ = __format__ = __int__ = __bytes__ = refuse  # type: ignore[assignment]
    __getattr__ = __getitem__ = __call__ = __float__ = __index__ = refuse

    @property
    def __class__(self) -> Any:
        raise RuntimeError("no class")

    @__class__.setter
    def __class__(self, kind: Any) -> None:
        raise TypeError


class Everything:
    """Has every attribute, and each is such an object again."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Everything()

    def __call__(self, *_: Any) -> Any:
        return Everything()


class Text(str):
    """A text with methods of its own."""

    encode = lower = strip = split = __str__ = __len__ = __iter__ = __eq__ = __hash__ = __format__ = refuse  # type: ignore[assignment]


class Bytes(bytes):
    decode = __bytes__ = __len__ = __iter__ = __eq__ = __hash__ = __getitem__ = refuse  # type: ignore[assignment]


class File:
    def __init__(self, *parts: Any) -> None:
        self.parts = list(parts)

    def read(self, size: int = -1) -> Any:
        return self.parts.pop(0) if self.parts else b""


class Response:
    def __init__(self, mimetype: Any = "text/plain", data: Any = b"x", status_code: Any = 200) -> None:
        self.mimetype, self.data, self.status_code = mimetype, data, status_code

    def get_data(self) -> Any:
        return self.data


def raising_iterator(error: BaseException) -> Iterator[Any]:
    yield "a"
    raise error


def stubborn() -> Iterator[Any]:
    """Goes on when it is told to end."""
    while True:
        try:
            yield b"x"
        except GeneratorExit:
            continue


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def circular() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


VALUES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "42": lambda: 42,
    "0.5": lambda: 0.5,
    "0": lambda: 0,
    "True": lambda: True,
    "nan": lambda: float("nan"),
    "a large int": lambda: 1 << 70,
    "an int of 5000 digits": lambda: 10**5000,
    "a negative": lambda: -1,
    "complex": lambda: 1j,
    "empty": lambda: "",
    "text": lambda: "abc",
    "bytes": lambda: b"abc",
    "bytearray": lambda: bytearray(b"abc"),
    "a memoryview": lambda: memoryview(b"abcdef")[::2],
    "a surrogate": lambda: "\ud800",
    "a list of one": lambda: ["\udfff"],
    "lines": lambda: "a\r\nset-cookie: b",
    "a NUL": lambda: "a\x00b",
    "long": lambda: "x" * 5000,
    "é": lambda: "é",
    "400": lambda: "400",
    "HTTPStatus": lambda: HTTPStatus.BAD_REQUEST,
    "Decimal": lambda: decimal.Decimal("1.5"),
    "a uuid": lambda: uuid.UUID(int=1),
    "a date": lambda: date(2026, 1, 2),
    "a dict": lambda: {"detail": "bad"},
    "a tuple": lambda: (1, 2),
    "a pair": lambda: ("a", "b\r\nc"),
    "a set": lambda: {1},
    "object": object,
    "a class": lambda: dict,
    "an exception": lambda: ValueError("returned"),
    "an array": lambda: np.zeros(2),
    "a scalar": lambda: np.float32(1.5),
    "surly": Surly,
    "liar": Liar,
    "untouchable": Untouchable,
    "everything": Everything,
    "odd text": lambda: Text("abc"),
    "odd bytes": lambda: Bytes(b"abc"),
    "circular": circular,
    "deep": lambda: nested(100_000),
    "a generator": lambda: (x for x in "ab"),
    "a generator that raises": lambda: raising_iterator(ValueError("late")),
    "a generator that exits": lambda: raising_iterator(SystemExit(2)),
    "stubborn": stubborn,
    "a map": lambda: map(str, [1, 2]),
    "an iterator of objects": lambda: iter([object()]),
    "iterates badly": odd_class("Odd", __iter__=refuse, __next__=refuse),
    "a length that exits": odd_class("Odd", __len__=leave),
    "a lambda": lambda: lambda: 1,
    "a buffer": lambda: io.BytesIO(b"abc"),
    "a text buffer": lambda: io.StringIO("abc"),
    "a closed buffer": lambda: closed(io.BytesIO(b"x")),
    "a file of numbers": lambda: File(1),
    "a file of mixed parts": lambda: File(b"a", "b"),
    "a file that refuses": odd_class("F", read=refuse),
    "a response": Response,
    "a response of a number": lambda: Response(5),
    "a response with an odd status": lambda: Response("a/b", b"x", "no"),
    "a response of nothing": lambda: Response("a/b", None),
    "a response that refuses": odd_class("R", mimetype=property(refuse)),
    "a response whose data exits": odd_class("R", mimetype="a/b", get_data=leave),
    "a list as body": odd_class("R", mimetype="a/b", response=[1]),
    "a dying object": odd_class("Dying", __del__=refuse),
}


def closed(file: io.BytesIO) -> io.BytesIO:
    file.close()
    return file


class ApiError(Exception):
    """An ordinary mistake: a number where a text belongs."""

    def __init__(self, code: int) -> None:
        self.code = code

    def __str__(self) -> Any:
        return self.code


def caused_by_nobody() -> Exception:
    try:
        raise ValueError("outer") from ValueError("inner")
    except ValueError as e:
        return e


def cyclic() -> Exception:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    return one


class Meta(type):
    __name__ = __module__ = __mro__ = property(refuse)  # type: ignore[assignment]
    __hash__ = __eq__ = __instancecheck__ = __subclasscheck__ = refuse  # type: ignore[assignment]


def of_a_meta_class() -> BaseException:
    found: BaseException = Meta("Odd", (Exception,), {})("odd class")
    return found


RAISED: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("bad\nline"),
    "ApiError": lambda: ApiError(422),
    "exit": lambda: SystemExit(3),
    "exit without": SystemExit,
    "exit with an object": lambda: SystemExit(Untouchable()),
    "interrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "StopIteration": lambda: StopIteration(1),
    "cancelled": asyncio.CancelledError,
    "recursion": lambda: RecursionError("too deep"),
    "memory": MemoryError,
    "huge": lambda: ValueError("x" * 3_000_000),
    "many lines": lambda: ValueError("a b\n" * 100_000),
    "surrogates": lambda: ValueError("\ud800"),
    "group": lambda: ExceptionGroup("g", [ValueError("in it")]),
    "a group with odd members": lambda: odd_class("G", ExceptionGroup, exceptions=property(refuse))("g", [ValueError(1)]),
    "args": lambda: odd_class("E", Exception, args=property(refuse))(1),
    "str raises": lambda: odd_class("E", Exception, __str__=refuse)(),
    "str exits": lambda: odd_class("E", Exception, __str__=leave)(),
    "bool raises": lambda: odd_class("E", Exception, __bool__=refuse, __len__=refuse)(),
    "repr raises": lambda: odd_class("E", Exception, __repr__=refuse)(1),
    "module": lambda: odd_class("E", Exception, __module__=5)(1),
    "status raises": lambda: odd_class("E", Exception, status_code=property(refuse))(1),
    "status is a text": lambda: odd_class("E", Exception, status_code="404")(1),
    "detail": lambda: odd_class("E", Exception, status_code=404, detail=Untouchable())(1),
    "a refusal": lambda: odd_class("E", Exception, status_code=404, detail={"a": 1})(1),
    "refuses without str": lambda: odd_class("E", Exception, status_code=404, __str__=refuse)(),
    "cause": lambda: odd_class("E", Exception, __cause__=property(refuse))(1),
    "cause is a text": lambda: odd_class("E", Exception, __cause__="me")(1),
    "traceback": lambda: odd_class("E", Exception, __traceback__=property(refuse), __context__=property(refuse))(1),
    "cyclic": cyclic,
    "getattr": lambda: odd_class("E", Exception, __getattr__=refuse, __getattribute__=refuse)(1),
    "class": lambda: odd_class("E", Exception, __class__=property(refuse))(1),
    "meta": of_a_meta_class,
    "chained": caused_by_nobody,
    "syntax": lambda: SyntaxError("odd", (5, "x", None, object())),
    "notes": lambda: odd_class("E", Exception, __notes__=5)(1),
    "unicode": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    "the name of ours": lambda: odd_class("EvenkeelError", Exception)("not ours"),
    "del": lambda: odd_class("E", Exception, __del__=refuse)(1),
    "a name with lines": lambda: odd_class("E\nF", Exception)("x"),
    "os": lambda: OSError(5, Untouchable(), 7),
}
