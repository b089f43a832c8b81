"""The protocol `query`: a form with the operation as `Action`, nested names such as `Tags.member.1.Key`; the reply is XML."""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as Tree
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from evenkeel.endpoint.wire.api_errors import MALFORMED, ApiError, fail
from evenkeel.endpoint.wire.api_model import ApiModel, ModelShape, Operation
from evenkeel.endpoint.wire.http_records import HttpAnswer, HttpCall
from evenkeel.endpoint.wire.json_values import Values, timestamp

FIELDS_MAX = 10_000  # of a form
Nested = dict[str, Any]  # names to texts or to further names


def form(call: HttpCall) -> dict[str, str]:
    """Raises ApiError where it is too long or no text."""
    try:
        text = "&".join(filter(None, (call.query, call.body.decode("ascii"))))
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX, strict_parsing=bool(text)))
    except ValueError as e:
        raise fail(MALFORMED, what=f"the body is no form: {e}") from None


def parse(model: ApiModel, operation: Operation, call: HttpCall) -> Values:
    if operation.takes is None:
        return {}
    nested: Nested = {}
    for name, text in form(call).items():
        _put(nested, name.split("."), text)
    values: Values = _read(model, operation.takes, nested, "")
    return values


def answer(model: ApiModel, operation: Operation, values: Values) -> HttpAnswer:
    root = Tree.Element(f"{operation.name}Response", {"xmlns": model.namespace})
    if operation.gives is not None:
        inside = Tree.SubElement(root, operation.wrapper) if operation.wrapper else root
        _write(model, model.shape(operation.gives), values, inside)
    Tree.SubElement(Tree.SubElement(root, "ResponseMetadata"), "RequestId").text = str(uuid.uuid4())
    return HttpAnswer(200, Tree.tostring(root), {"content-type": "text/xml"})


def error(problem: ApiError) -> HttpAnswer:
    root = Tree.Element("ErrorResponse")
    inside = Tree.SubElement(root, "Error")
    parts = {"Type": "Sender" if problem.status < 500 else "Receiver", "Code": problem.code, "Message": problem.message}
    for name, text in parts.items():
        Tree.SubElement(inside, name).text = "".join(mark for mark in text if mark >= " ")
    Tree.SubElement(root, "RequestId").text = str(uuid.uuid4())
    return HttpAnswer(problem.status, Tree.tostring(root), {"content-type": "text/xml", "x-amzn-errortype": problem.code})


def _put(nested: Nested, names: list[str], text: str) -> None:
    for name in names[:-1]:
        inner = nested.setdefault(name, {})
        if not isinstance(inner, dict):
            raise fail(MALFORMED, what=f"{'.'.join(names)} stands both for a value and for more names")
        nested = inner
    if isinstance(nested.get(names[-1]), dict):
        raise fail(MALFORMED, what=f"{'.'.join(names)} stands both for a value and for more names")
    nested[names[-1]] = text


def _read(model: ApiModel, name: str, value: Any, where: str) -> Any:
    shape = model.shape(name)
    if shape.kind in ("structure", "list", "map") and not isinstance(value, dict):
        if value == "" and shape.kind == "list":
            return []
        raise fail(MALFORMED, what=f"{where} must be of the type {shape.kind}")
    if shape.kind == "structure":
        named = [(m, value[m.location_name]) for m in shape.members if m.location_name in value]
        return {m.name: _read(model, m.shape, given, f"{where}.{m.name}".lstrip(".")) for m, given in named}
    if shape.kind == "list":
        return [_read(model, shape.element, v, where) for v in _numbered(value.get(shape.element_name, value))]
    if shape.kind == "map":
        entries = [e for e in _numbered(value.get("entry", value)) if isinstance(e, dict) and {"key", "value"} <= set(e)]
        return {e["key"]: _read(model, shape.value, e["value"], where) for e in entries}
    if isinstance(value, dict):
        raise fail(MALFORMED, what=f"{where} must be of the type {shape.kind}")
    return _scalar(shape, value, where)


def _numbered(value: Any) -> list[Any]:
    """What stands under 1, 2, 3 and so on, in that order."""
    if not isinstance(value, dict):
        return []
    return [value[n] for n in sorted((n for n in value if n.isascii() and n.isdigit() and len(n) < 9), key=int)]


def _scalar(shape: ModelShape, text: str, where: str) -> Any:
    try:
        if shape.kind in ("integer", "long"):
            return int(text)
        if shape.kind in ("float", "double"):
            return float(text)
    except ValueError:
        raise fail(MALFORMED, what=f"{where} must be of the type {shape.kind}") from None
    if shape.kind == "boolean":
        return text.lower() == "true"
    if shape.kind == "timestamp":
        return timestamp(text, where, shape)
    return text


def _write(model: ApiModel, shape: ModelShape, value: Any, into: Tree.Element) -> None:
    if shape.kind == "structure":
        for member in shape.members:
            if value.get(member.name) is not None:
                _write(model, model.shape(member.shape), value[member.name], Tree.SubElement(into, member.location_name))
    elif shape.kind == "list":
        for element in value:
            _write(model, model.shape(shape.element), element, Tree.SubElement(into, shape.element_name))
    elif shape.kind == "map":
        for key, element in value.items():
            entry = Tree.SubElement(into, "entry")
            Tree.SubElement(entry, "key").text = key
            _write(model, model.shape(shape.value), element, Tree.SubElement(entry, "value"))
    elif shape.kind == "timestamp":
        into.text = datetime.fromtimestamp(value, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    else:
        into.text = str(value).lower() if isinstance(value, bool) else str(value)
