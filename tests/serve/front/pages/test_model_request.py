"""What a client may say of a model that is to be loaded; folders of files, no process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evenkeel.serve.contract.model_table import NAME_BYTES_MAX, URL_BYTES_MAX
from evenkeel.serve.errors import BadRequest, MethodNotAllowed, NotFound
from evenkeel.serve.front.http.request_head import Route
from evenkeel.serve.front.pages.model_request import LIMIT, ModelRequest, model_request, page_bounds
from evenkeel.serve.front.pages.routes import find, model_name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "models" / "hash" / "model").mkdir(parents=True)
    (tmp_path / "models" / "file").write_text("")
    (tmp_path / "outside").mkdir()
    return tmp_path / "models"


def body(name: Any, url: Any) -> bytes:
    return json.dumps({"model_name": name, "url": url}).encode()


def test_a_folder_below_the_root_may_be_loaded_under_any_name(root: Path) -> None:
    url = str(root / "hash" / "model")
    for name in ("a", "a/../b", "%2F..", "ü" * (NAME_BYTES_MAX // 2), " "):
        assert model_request(body(name, url), root) == ModelRequest(name, url, url)


@pytest.mark.parametrize(("name", "url", "said"), [
    ("", "/m", "model_name must have 1 to"), ("x" * (NAME_BYTES_MAX + 1), "/m", "model_name must have 1 to"),
    (None, "/m", "the body must be"), ("x", 3, "the body must be"), ("x", "", "url must have 1 to"),
    ("x", "/" + "u" * URL_BYTES_MAX, "url must have 1 to"), ("x", "models/hash", "absolute path"),
    ("x", "/a\0b", "absolute path"),
    ("x", "s3://bucket/model", "absolute path"), ("x", "/etc", "must lie in"), ("x", "/proc/self", "must lie in"),
])  # fmt: skip
def test_what_is_no_name_or_no_folder_of_ours_is_refused_with_why(root: Path, name: Any, url: Any, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        model_request(body(name, url), root)


def test_a_way_out_of_the_root_is_none(root: Path) -> None:
    (root / "link").symlink_to(root.parent / "outside")
    (root / "loop").symlink_to(root / "loop")
    for url in (root / "hash" / ".." / ".." / "outside", root / "link", root, root / "loop", root / "file"):
        with pytest.raises(BadRequest, match=r"must lie in|must be a folder|cannot be looked at"):
            model_request(body("x", str(url)), root)
    with pytest.raises(NotFound, match="there is no folder"):
        model_request(body("x", str(root / "none")), root)


def test_a_link_in_the_folder_that_leads_out_of_it_is_refused_and_one_that_stays_is_not(root: Path) -> None:
    folder = root / "hash" / "model"
    (folder / "code").mkdir()
    (folder / "code" / "inside").symlink_to("..")
    with pytest.raises(BadRequest, match="leads out of its folder: code/inside"):
        model_request(body("x", str(folder)), root)
    (folder / "code" / "inside").unlink()
    (folder / "weights").write_text("")
    (folder / "code" / "weights").symlink_to("../weights")
    assert model_request(body("x", str(folder)), root).folder == str(folder)
    (folder / "code" / "weights").unlink()
    (folder / "code" / "weights").symlink_to(root.parent / "outside")
    with pytest.raises(BadRequest, match="leads out of its folder: code/weights"):
        model_request(body("x", str(folder)), root)


def test_a_body_that_is_no_json_is_said_to_be_none(root: Path) -> None:
    for data in (b"", b"{", b"[]", b'"a"', b"\xff"):
        with pytest.raises(BadRequest):
            model_request(data, root)


def test_pages_are_asked_for_by_what_a_list_gave_and_are_bounded() -> None:
    assert page_bounds(None, None) == (0, LIMIT) and page_bounds("7", "3") == (7, 3)
    for token, limit in (("x", None), ("-1", None), ("1" * 20, None), (None, "0"), (None, "1001"), (None, "x")):
        with pytest.raises(BadRequest):
            page_bounds(token, limit)


@pytest.mark.parametrize(("method", "target", "route"), [
    (b"GET", b"/models", Route.APPLICATION), (b"POST", b"/models", Route.APPLICATION), (b"GET", b"/ping", Route.PING),
    (b"GET", b"/models?next_page_token=3", Route.APPLICATION), (b"DELETE", b"/models/a%2Fb", Route.APPLICATION),
    (b"POST", b"/models/a/invoke", Route.NAMED), (b"POST", b"/models/invoke/invoke", Route.NAMED),
    (b"POST", b"/models/%2e%2e/invoke?x=1", Route.NAMED),
])  # fmt: skip
def test_where_there_are_many_models_paths_name_them(method: bytes, target: bytes, route: Route) -> None:
    assert find(method, target, many=True) is route


@pytest.mark.parametrize(("method", "target", "kind"), [
    (b"POST", b"/invocations", NotFound), (b"GET", b"/models/a/invoke", MethodNotAllowed), (b"PUT", b"/models", MethodNotAllowed),
    (b"POST", b"/models/", NotFound), (b"POST", b"/models/a/b", NotFound), (b"POST", b"/models//invoke", NotFound),
    (b"POST", b"/models/a/b/invoke", NotFound), (b"GET", b"/modelsx", NotFound),
])  # fmt: skip
def test_other_paths_are_refused_with_those_that_there_are(method: bytes, target: bytes, kind: type) -> None:
    assert isinstance(find(method, target, many=True), kind)
    assert isinstance(find(b"POST", b"/models/a/invoke"), NotFound), "where there is one model there are no such paths"


def test_a_name_is_what_its_encoding_stands_for_and_text() -> None:
    assert model_name(b"/models/a%2Fb%20%C3%BC/invoke") == "a/b ü" and model_name(b"/models/a+b?x=/") == "a+b"
    with pytest.raises(BadRequest, match="no UTF-8"):
        model_name(b"/models/%FF")
