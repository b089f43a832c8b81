"""S3's documents in XML, both ways. Documents of clients are small, and one with a declaration of entities is refused."""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as Tree
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from evenkeel.endpoint.wire.api_errors import S3_MALFORMED_XML, ApiError, fail

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
Part = tuple[str, Any]  # name, and text or parts


def document(name: str, parts: Sequence[Part]) -> bytes:
    root = Tree.Element(name, {"xmlns": NAMESPACE})
    _fill(root, parts)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + Tree.tostring(root)


def error(problem: ApiError) -> bytes:
    root = Tree.Element("Error")
    _fill(root, [("Code", problem.code), ("Message", problem.message), ("RequestId", str(uuid.uuid4()))])
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + Tree.tostring(root)


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read(body: bytes) -> Tree.Element:
    """Names come without their namespace. Raises ApiError."""
    if b"<!" in body:
        raise fail(S3_MALFORMED_XML)
    try:
        root = Tree.fromstring(body)
    except (Tree.ParseError, ValueError, LookupError):
        raise fail(S3_MALFORMED_XML) from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _fill(element: Tree.Element, parts: Sequence[Part]) -> None:
    for name, value in parts:
        inside = Tree.SubElement(element, name)
        if isinstance(value, (list, tuple)):
            _fill(inside, value)
        else:
            inside.text = "".join(mark for mark in str(value) if mark >= " ")
