"""The models of AWS's services: operations, and the shapes of what goes in and out.

They are read from the data files that come with botocore, which itself is never imported: its files are found without it,
so a process that speaks AWS's protocols starts without the second that the import can take. Only what the supported
operations reach is kept.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from evenkeel.endpoint.wire.supported import SERVICES, Service

SCALARS = frozenset({"string", "integer", "long", "float", "double", "boolean", "timestamp", "blob"})


class NoBotocore(Exception):
    """The extra `endpoint` is not installed. The message says how to install it."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a structure: `location` is uri, querystring, header, statusCode or "" for the body."""

    name: str
    shape: str
    location: str
    location_name: str
    has_token: bool  # the server makes up a value where a client sends none


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a value may be. `least` and `most` bound a number itself, and of everything else the length."""

    name: str
    kind: str  # a scalar's, or structure, list, map
    members: tuple[Member, ...] = ()
    required: tuple[str, ...] = ()
    element: str = ""  # of a list
    element_name: str = "member"  # of a list in XML
    key: str = ""  # of a map
    value: str = ""
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    pattern: str = ""
    payload: str = ""  # the member that is the whole body
    is_event_stream: bool = False

    def member(self, name: str) -> Member:
        return next(m for m in self.members if m.name == name)


@dataclass(frozen=True, slots=True)
class Operation:
    name: str
    method: str
    path: str  # such as /endpoints/{EndpointName}/invocations
    takes: str | None  # the shape of its parameters
    gives: str | None
    wrapper: str  # the element around the reply, in the query protocol
    errors: tuple[str, ...]


class ApiModel:
    """The supported operations of one service."""

    def __init__(self, service: Service, raw: Mapping[str, Any]) -> None:
        self.service = service
        self.target_prefix: str = raw["metadata"].get("targetPrefix", "")
        self.json_version: str = raw["metadata"].get("jsonVersion", "1.1")
        self.namespace: str = raw["metadata"].get("xmlNamespace", "")
        self.operations = {name: _operation(raw["operations"][name]) for name in service.operations}
        roots = [s for o in self.operations.values() for s in (o.takes, o.gives, *o.errors) if s]
        self.shapes = {name: _shape(name, raw["shapes"][name]) for name in _reachable(raw["shapes"], roots)}

    def shape(self, name: str) -> ModelShape:
        return self.shapes[name]


@cache
def load(service: Service) -> ApiModel:
    """Raises NoBotocore."""
    path = data_folder() / service.folder / service.version / "service-2.json.gz"
    return ApiModel(service, json.loads(gzip.decompress(path.read_bytes())))


def load_all() -> dict[Service, ApiModel]:
    return {service: load(service) for service in SERVICES}


def data_folder() -> Path:
    found = importlib.util.find_spec("botocore")
    places = found.submodule_search_locations if found else None
    if not places:
        raise NoBotocore("the endpoint needs botocore's models: pip install 'evenkeel[endpoint]'")
    return Path(places[0]) / "data"


def _operation(raw: Mapping[str, Any]) -> Operation:
    return Operation(
        raw["name"], raw["http"]["method"], raw["http"]["requestUri"], raw.get("input", {}).get("shape"),
        raw.get("output", {}).get("shape"), raw.get("output", {}).get("resultWrapper", ""),
        tuple(error["shape"] for error in raw.get("errors", ())),
    )  # fmt: skip


def _shape(name: str, raw: Mapping[str, Any]) -> ModelShape:
    members = tuple(
        Member(n, m["shape"], m.get("location", ""), m.get("locationName", n), m.get("idempotencyToken", False))
        for n, m in raw.get("members", {}).items()
    )
    return ModelShape(
        name, raw["type"], members, tuple(raw.get("required", ())), raw.get("member", {}).get("shape", ""),
        raw.get("member", {}).get("locationName", "member"), raw.get("key", {}).get("shape", ""),
        raw.get("value", {}).get("shape", ""), tuple(raw.get("enum", ())), raw.get("min"), raw.get("max"),
        raw.get("pattern", ""), raw.get("payload", ""), raw.get("eventstream", False),
    )  # fmt: skip


def _reachable(shapes: Mapping[str, Any], roots: list[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(_parts(shapes[name]))
    return found


def _parts(raw: Mapping[str, Any]) -> Iterator[str]:
    yield from (m["shape"] for m in raw.get("members", {}).values())
    yield from (raw[part]["shape"] for part in ("member", "key", "value") if part in raw)
