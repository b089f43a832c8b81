"""The constraints of a model on parameters, checked as the service checks them: a client of boto3 checks only a part of them.

The words are those that AWS answers (`1 validation error detected: Value 'm_1' at 'modelName' failed to satisfy constraint: …`),
seen in public traces.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from evenkeel.endpoint.wire.api_errors import ApiError
from evenkeel.endpoint.wire.api_model import ApiModel, ModelShape
from evenkeel.endpoint.wire.java_patterns import compiled

SHOWN_CHARS_MAX = 256  # of a value in a message
PATTERN_CHARS_MAX = 8192  # a longer value is not compared with a pattern; those that may be longer have none that matters
VIOLATIONS_MAX = 10  # told of one call


@dataclass(frozen=True, slots=True)
class Violation:
    where: str
    value: Any
    rule: str

    def __str__(self) -> str:
        shown = "null" if self.value is None else f"'{str(self.value)[:SHOWN_CHARS_MAX]}'"
        return f"Value {shown} at '{self.where}' failed to satisfy constraint: {self.rule}"


def check(model: ApiModel, name: str, values: Any, code: str) -> None:
    """Raises ApiError of that code with everything that is wrong, or with the first ten."""
    found: list[Violation] = []
    for violation in violations(model, name, values):
        found.append(violation)
        if len(found) == VIOLATIONS_MAX:
            break
    if found:
        plural = "" if len(found) == 1 else "s"
        raise ApiError(code, 400, f"{len(found)} validation error{plural} detected: {'; '.join(map(str, found))}")


def violations(model: ApiModel, name: str, value: Any, where: str = "") -> Iterator[Violation]:
    shape = model.shape(name)
    yield from (Violation(where, value, rule) for rule in _bounds(shape, value))
    if shape.kind == "structure":
        for member in shape.members:
            inside = f"{where}.{_lower(member.name)}".lstrip(".")
            if value.get(member.name) is not None:
                yield from violations(model, member.shape, value[member.name], inside)
            elif member.name in shape.required and not member.has_token:
                yield Violation(inside, None, "Member must not be null")
    elif shape.kind == "list":
        for number, element in enumerate(value, 1):
            yield from violations(model, shape.element, element, f"{where}.{number}.member")
    elif shape.kind == "map":
        for key, element in value.items():
            yield from violations(model, shape.key, key, f"{where}.key")
            yield from violations(model, shape.value, element, f"{where}.{key}.member")


def _lower(name: str) -> str:
    return name[:1].lower() + name[1:]


def _bounds(shape: ModelShape, value: Any) -> Iterator[str]:
    if shape.kind in ("integer", "long", "float", "double"):
        if shape.least is not None and not value >= shape.least:
            yield f"Member must have value greater than or equal to {_whole(shape.least)}"
        if shape.most is not None and not value <= shape.most:
            yield f"Member must have value less than or equal to {_whole(shape.most)}"
        return
    if shape.kind not in ("string", "blob", "list", "map"):
        return
    if shape.most is not None and len(value) > shape.most:
        yield f"Member must have length less than or equal to {_whole(shape.most)}"
    if shape.least is not None and len(value) < shape.least:
        yield f"Member must have length greater than or equal to {_whole(shape.least)}"
    if shape.choices and value not in shape.choices:
        yield f"Member must satisfy enum value set: [{', '.join(shape.choices)}]"
    comparable = len(value) <= min(PATTERN_CHARS_MAX, shape.most or math.inf)
    if shape.pattern and comparable and not compiled(shape.pattern).match(value):
        yield f"Member must satisfy regular expression pattern: {shape.pattern}"


def _whole(number: float) -> str:
    return str(int(number)) if number == math.trunc(number) else f"{number:g}"
