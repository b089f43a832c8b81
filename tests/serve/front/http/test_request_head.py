"""What a head says, and what of it is remembered."""

from __future__ import annotations

import pytest

from evenkeel.serve.front.http.request_head import (
    FORMATS_MAX,
    Head,
    Route,
    build,
    formats_of,
    new_request_id,
    platform_headers,
    request_id,
)
from evenkeel.serve.http.strict import read_head


def raw(*headers: tuple[str, str], method: str = "POST") -> bytes:
    lines = [f"{method} / HTTP/1.1", "Host: a", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def made(*headers: tuple[str, str], method: str = "POST", default: str | None = None, route: Route = Route.INVOKE) -> Head:
    read = read_head(raw(*headers, method=method), 100)
    return build(route, read.method, read.values, True, default)


def code(head: Head) -> str:
    return head.formats.wrong.code if head.formats.wrong else "ok"


@pytest.mark.parametrize(
    ("headers", "reply"),
    [
        ([("content-type", "application/json")], "application/json"),
        ([("content-type", "application/json; charset=utf-8")], "application/json"),
        ([("content-type", "text/csv"), ("accept", "application/json")], "application/json"),
        ([("content-type", "text/csv"), ("accept", "*/*")], "text/csv"),
        ([("content-type", "text/csv"), ("x-amzn-sagemaker-accept", "application/json")], "application/json"),
        (
            [("content-type", "text/csv"), ("accept", "*/*"), ("x-amzn-sagemaker-accept", "application/x-npy")],
            "application/x-npy",
        ),
        ([("content-type", "text/csv"), ("accept", "text/csv"), ("x-amzn-sagemaker-accept", "application/x-npy")], "text/csv"),
        ([], "application/json"),
    ],
)
def test_the_reply_is_of_the_type_that_was_asked_for(headers: list[tuple[str, str]], reply: str) -> None:
    head = made(*headers)
    assert code(head) == "ok"
    assert head.formats.answer_start == b"HTTP/1.1 200 OK\r\ncontent-type: " + reply.encode() + b"\r\ncontent-length: "


def test_the_default_accept_holds_where_the_client_says_nothing() -> None:
    assert b"text/csv" in made(("content-type", "application/json"), default="text/csv").formats.answer_start
    asked = made(("content-type", "application/json"), ("accept", "application/json"), default="text/csv")
    assert b"application/json" in asked.formats.answer_start


@pytest.mark.parametrize(
    ("headers", "wrong"),
    [
        ([("content-type", "image/png")], "unsupported_media_type"),
        ([("content-type", "text/csv"), ("accept", "image/png")], "not_acceptable"),
        ([("content-type", "text/csv"), ("content-encoding", "gzip")], "unsupported_media_type"),
        ([("content-type", "text/csv"), ("content-encoding", "Identity")], "ok"),
    ],
)
def test_what_the_codecs_refuse_is_kept_for_the_model_to_decide(headers: list[tuple[str, str]], wrong: str) -> None:
    assert code(made(*headers)) == wrong


def test_a_ping_needs_no_codecs() -> None:
    assert code(made(("accept", "image/png"), method="GET", route=Route.PING)) == "ok"


def test_the_platforms_headers_are_found_as_they_came_and_others_are_not() -> None:
    ids = (("X-Amzn-SageMaker-Inference-Id", " abc\t"), ("x-amzn-sagemaker-session-id", "s: x-amzn-sagemaker-no"))
    found = raw(("Authorization", "secret"), ("Y-x-amzn-sagemaker-y", "no"), *ids, ("x-amzn-sagemaker-none", ""))
    assert platform_headers(found) == {
        "x-amzn-sagemaker-inference-id": "abc", "x-amzn-sagemaker-session-id": "s: x-amzn-sagemaker-no",
        "x-amzn-sagemaker-none": "",
    }  # fmt: skip
    assert request_id(found) == "abc" and request_id(raw()) == ""


def test_of_a_platforms_header_that_comes_twice_the_last_counts_as_for_the_strict_reader() -> None:
    found = raw(("x-amzn-sagemaker-a", "1"), ("X-Amzn-SageMaker-A", "2"))
    assert platform_headers(found)["x-amzn-sagemaker-a"] == "2" == read_head(found, 100).values[b"x-amzn-sagemaker-a"].decode()


def test_a_header_that_is_not_ascii_breaks_nothing() -> None:
    head = build(Route.INVOKE, b"POST", {b"content-type": b"text/\xff"}, True, None)
    assert code(head) == "unsupported_media_type"
    assert platform_headers(raw(("x-amzn-sagemaker-a", "é"))) == {"x-amzn-sagemaker-a": "é"}


def test_request_ids_of_our_own_are_unique() -> None:
    assert len({new_request_id() for _ in range(100)}) == 100


# ---- remembered formats -------------------------------------------------------------------------------------------------


def test_ids_and_lengths_of_their_own_share_their_formats() -> None:
    one, other = (made(("content-type", "text/csv"), ("x-amzn-trace-id", i), ("content-length", i)) for i in "12")
    assert one.formats is other.formats and one == other


def test_whatever_formats_depend_on_makes_others() -> None:
    heads = [
        made(*headers, default=default)
        for default in (None, "text/csv")
        for headers in (
            (), (("content-type", "text/csv"),), (("accept", "text/csv"),), (("x-amzn-sagemaker-accept", "text/csv"),),
            (("content-encoding", "gzip"),), (("content-type", "text/csv; a=b"),),
        )
    ]  # fmt: skip
    assert len({id(head.formats) for head in heads}) == len(heads)


def test_the_memory_of_formats_is_bounded_in_number_and_bytes() -> None:
    for i in range(2 * FORMATS_MAX):
        made(("content-type", f"text/csv; n={i}"))
    assert formats_of.cache_info().currsize <= FORMATS_MAX
    before = formats_of.cache_info().misses
    made(("content-type", "text/csv; n=" + "1" * 2000))
    assert formats_of.cache_info().misses == before, "a long one is not remembered"
