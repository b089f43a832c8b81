"""What a head says, and which heads may be remembered under their bytes."""

from __future__ import annotations

import pytest

from evenkeel.serve.front.http.request_head import FORMATS_MAX, HEADS_MAX, Head, Heads, Route, build, formats_of, new_request_id
from evenkeel.serve.http.strict import read_head

Pairs = list[tuple[bytes, bytes]]


def made(*headers: tuple[str, str], method: str = "POST", keep_alive: bool = True, default: str | None = None,
         route: Route = Route.INVOKE) -> Head:  # fmt: skip
    lines = [f"{method} / HTTP/1.1", "Host: a", *(f"{name}: {value}" for name, value in headers)]
    read = read_head(("\r\n".join(lines) + "\r\n\r\n").encode(), 100)
    return build(route, read.method, read.values, read.length, keep_alive, default, read.expects_continue)


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


def test_the_length_is_unknown_only_when_the_body_is_chunked() -> None:
    assert made(("content-length", "17")).length == 17
    assert made().length == 0
    assert made(("transfer-encoding", "chunked")).length is None


def test_the_platforms_headers_are_kept_and_others_are_not() -> None:
    head = made(("x-amzn-sagemaker-inference-id", "abc"), ("x-amzn-sagemaker-session-id", "s"), ("authorization", "secret"))
    assert head.request_id == "abc"
    assert head.headers == {"x-amzn-sagemaker-inference-id": "abc", "x-amzn-sagemaker-session-id": "s"}


def test_a_header_that_is_not_ascii_breaks_nothing() -> None:
    head = build(Route.INVOKE, b"POST", {b"content-type": b"text/\xff", b"x-amzn-sagemaker-a": b"\xe9"}, 0, True, None)
    assert code(head) == "unsupported_media_type" and head.headers == {"x-amzn-sagemaker-a": "é"}


def test_request_ids_of_our_own_are_unique() -> None:
    assert len({new_request_id() for _ in range(100)}) == 100


# ---- remembered heads ---------------------------------------------------------------------------------------------------

RAW = b"POST /invocations HTTP/1.1\r\ncontent-type: text/csv\r\ncontent-length: 3\r\n\r\n"
PLAIN = (("content-type", "text/csv"), ("content-length", "3"))


def test_a_plain_head_is_found_again_under_its_bytes() -> None:
    heads, head = Heads(), made(*PLAIN)
    heads.remember(RAW, head)
    assert heads.get(RAW) is head
    assert heads.get(RAW.replace(b"3", b"4")) is None


@pytest.mark.parametrize(
    "head",
    [
        made(*PLAIN, keep_alive=False),
        made(("transfer-encoding", "chunked"), ("content-type", "text/csv")),
        made(*PLAIN, ("expect", "100-Continue")),
    ],
)
def test_a_head_after_which_the_connection_does_not_go_on_as_before_is_not_remembered(head: Head) -> None:
    heads = Heads()
    heads.remember(RAW, head)
    assert heads.get(RAW) is None


def test_the_memory_of_heads_is_bounded() -> None:
    heads, head = Heads(), made(*PLAIN)
    for i in range(3 * HEADS_MAX):
        heads.remember(RAW.replace(b"csv", b"csv%d" % i), head)
    assert len(heads._by_bytes) <= HEADS_MAX
    heads.remember(RAW, head)
    assert heads.get(RAW) is head


def test_when_the_memory_is_full_one_head_makes_room_and_not_all() -> None:
    heads, head = Heads(), made(*PLAIN)
    raws = [RAW.replace(b"csv", b"csv%d" % i) for i in range(HEADS_MAX + 1)]
    for raw in raws:
        heads.remember(raw, head)
    assert heads.get(raws[0]) is None and all(heads.get(raw) is head for raw in raws[1:])


# ---- remembered formats -------------------------------------------------------------------------------------------------


def test_ids_and_lengths_of_their_own_share_their_formats() -> None:
    one, other = (made(("content-type", "text/csv"), ("x-amzn-trace-id", i), ("content-length", i)) for i in "12")
    assert one.formats is other.formats and (one.length, other.length) == (1, 2)


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
