"""Content-Type and Accept: what clients really send, and which codec that means."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.serve.codec import decoder_for, negotiate, parse_media
from evenkeel.serve.codec.media import accepted
from evenkeel.serve.codec.registry import CODECS
from evenkeel.serve.errors import BadRequest, EvenkeelError, NotAcceptable, UnsupportedMedia
from tests.serve.codec.samples import model, x


@pytest.mark.parametrize(
    "value, mime, params",
    [
        ("text/csv", "text/csv", {}),
        ("Text/CSV; Label_Size=0", "text/csv", {"label_size": "0"}),
        ('application/JSON;charset="UTF-8"', "application/json", {"charset": "UTF-8"}),
        ('a/b; x="1;2, \\"3\\""; y = z ;;=;w', "a/b", {"x": '1;2, "3"', "y": "z", "w": ""}),
        ("a/b; x=1; x=2", "a/b", {"x": "1"}),
        ("", "", {}),
        (";", "", {}),
        ('"', '"', {}),
    ],
)
def test_a_content_type_is_taken_apart(value: str, mime: str, params: dict[str, str]) -> None:
    media = parse_media(value)
    assert (media.mime, dict(media.params)) == (mime, params)


@given(st.text(alphabet='abc/*;,=" \\q01.-', max_size=30) | st.text(max_size=20))
def test_no_header_text_breaks_the_parsers(value: str) -> None:
    parse_media(value)
    accepted(value)
    with contextlib.suppress(EvenkeelError):
        decoder_for(value)
    with contextlib.suppress(EvenkeelError):
        negotiate(value, value, None)


def test_hostile_quotes_take_no_time() -> None:
    parse_media('"' * 50_000)
    parse_media('a/b;x="' + '\\"' * 50_000)
    accepted('"a,' * 20_000)


@pytest.mark.parametrize("mime", list(CODECS))
def test_every_format_is_found_whatever_its_case_and_parameters(mime: str) -> None:
    assert decoder_for(mime.upper() + "; a=b").mime == mime
    assert negotiate(mime, "", None).mime == mime


def test_an_unknown_type_is_refused_and_the_known_ones_named() -> None:
    for value in (
        "text/libsvm",
        "application/x-recordio-protobuf",
        "application/x-www-form-urlencoded",
        "junk",
        "text/*",
    ):
        with pytest.raises(UnsupportedMedia, match=r"send one of application/json, .*tensor/pt"):
            decoder_for(value)


@pytest.mark.parametrize("absent", ["", "*/*", " "])
def test_without_a_type_json_is_guessed_and_nothing_else(absent: str) -> None:
    guess, signature = decoder_for(absent), model(x())
    assert guess.mime == "application/json"
    assert guess.decode(b' \n{"instances":[1]}', signature, {}).rows == 1
    assert guess.decode(b"[1]", signature, {}).rows == 1
    for body in (b"1,2,3", b"", b"\x93NUMPY", b"hello"):
        with pytest.raises(UnsupportedMedia, match="no Content-Type"):
            guess.decode(body, signature, {})
    with pytest.raises(BadRequest):
        guess.decode(b"[1", signature, {})


@pytest.mark.parametrize(
    "accept, request_mime, default, mime",
    [
        ("", "text/csv", None, "text/csv"),
        ("*/*", "text/csv", None, "text/csv"),
        ("*/*", "text/csv", "application/json", "application/json"),
        ("", "", None, "application/json"),
        ("*; q=.2", "application/x-npy", None, "application/x-npy"),
        ("text/csv, application/json", "application/x-npy", None, "text/csv"),
        ("text/csv;q=0.5, application/json", "text/csv", None, "application/json"),
        ("image/png, application/json;q=0.1", "text/csv", None, "application/json"),
        ("text/*", "application/json", "application/json", "text/csv"),
        ("application/*", "application/x-npz", None, "application/x-npz"),
        ("application/*", "text/csv", None, "application/json"),
        ("application/json;q=0, */*", "application/json", None, "application/jsonlines"),
        ("*/*;q=0.1, text/csv", "application/json", None, "text/csv"),
        ("Application/JSON; charset=utf-8", "text/csv", None, "application/json"),
        ("application/json;q=high", "text/csv", None, "application/json"),
        ("application/json;q=9, text/csv", "text/csv", None, "application/json"),
        ("tensor/*", "text/csv", None, "tensor/pt"),
    ],
)
def test_accept_decides_and_silence_mirrors(accept: str, request_mime: str, default: str | None, mime: str) -> None:
    assert negotiate(accept, request_mime, default).mime == mime


@pytest.mark.parametrize("accept", ["image/png", "application/json;q=0", "*/*;q=0", "image/*", "junk"])
def test_what_cannot_be_given_is_not_acceptable(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="ask for one of application/json"):
        negotiate(accept, "application/json", None)
