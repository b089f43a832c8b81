"""Where a request goes by its method and path alone, and that the table is what the application has."""

from __future__ import annotations

from typing import Any

import pytest

from evenkeel.serve.errors import BadRequest, MethodNotAllowed, NotFound
from evenkeel.serve.front.http.request_head import Route
from evenkeel.serve.front.pages import data_pages, routes


def paths(router: Any) -> set[str]:
    return {route.path for route in router.routes if hasattr(route, "path")} | {
        path for route in router.routes if not hasattr(route, "path") for path in paths(getattr(route, "original_router", route))
    }


@pytest.mark.parametrize(
    ("method", "target", "route"),
    [
        (b"POST", b"/invocations", Route.INVOKE),
        (b"POST", b"/%69nvocations?x", Route.INVOKE),
        (b"POST", b"http://h/invocations", Route.INVOKE),
        (b"HEAD", b"/ping", Route.PING),
        (b"GET", b"/pi%6eg", Route.PING),
        (b"GET", b"/metrics", Route.APPLICATION),
        (b"HEAD", b"/metrics", Route.APPLICATION),
        (b"GET", b"/v2/models/a/ready", Route.APPLICATION),
        (b"HEAD", b"/v2/models/a/versions/1/ready", Route.APPLICATION),
    ],
)
def test_a_request_finds_its_way(method: bytes, target: bytes, route: Route) -> None:
    assert routes.find(method, target) is route


@pytest.mark.parametrize(
    "target", [b"/", b"/nothing", b"http://h", b"*", b"//ping", b"/ping/", b"/v2/models//ready", b"/pi%zzng"]
)
def test_a_path_that_is_none_is_told_which_there_are(target: bytes) -> None:
    found = routes.find(b"GET", target)
    assert isinstance(found, NotFound) and "/invocations, /ping" in found.message


def test_a_method_that_is_not_possible_is_told_which_are() -> None:
    found = routes.find(b"PUT", b"/ping")
    assert isinstance(found, MethodNotAllowed) and found.allow == "GET, POST, HEAD"
    assert found.message == "PUT is not possible on /ping: use GET, POST, HEAD"


def test_a_fragment_is_refused() -> None:
    with pytest.raises(BadRequest, match="fragment"):
        routes.find(b"GET", b"/ping#x")


def test_every_route_of_the_application_is_in_the_table_and_the_other_way_round() -> None:
    application = data_pages.build()
    known = {path.decode() for path in routes.METHODS} | {"/v2/models/{name}/ready", "/v2/models/{name}/versions/{version}/ready"}
    assert set(application.openapi()["paths"]) | {"/openapi.json"} == known
    assert set(routes.SHOWN.split(", ")) == known
