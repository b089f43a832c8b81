"""Bad input: a clear error, a counter, a connection that goes on where it can, and no harm to anybody else."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

from tests.support import digits_model as model
from tests.support.tree import Tree, eventually, serving
from tests.support.wire import Closed, Response, chunked, request

MIB = 1 << 20
ROWS = model.some_rows(np.random.default_rng(6), 3)
GOOD = model.to_json(ROWS)
NPY = model.to_npy(ROWS)
CSV = model.to_csv(ROWS)


@dataclass(frozen=True)
class Bad:
    sent: bytes
    status: int
    code: str
    closes: bool = False  # nothing after it can be understood, so the connection ends


def typed(body: bytes, content_type: str, code: str = "bad_request", status: int = 400) -> Bad:
    return Bad(request(body, content_type), status, code)


def lying(*headers: str, body: bytes = GOOD) -> Bad:
    return Bad(request(body, headers=headers, length=False), 400, "bad_request", closes=True)


def with_value(value: float) -> model.Array:
    rows = ROWS.copy()
    rows[1, 2, 3] = value
    return rows


def instances(value: str) -> bytes:
    """One row whose last pixel is written as `value`."""
    text = json.dumps({"instances": ROWS[:1].tolist()})
    return (text[: text.rindex(",") + 1] + value + "]]]}").encode()


JSON = {
    "empty": typed(b"", "application/json"),
    "blank": typed(b"  \n ", "application/json"),
    "garbage": typed(b"hello", "application/json"),
    "truncated": typed(GOOD[:-7], "application/json"),
    "truncated in a number": typed(GOOD[:60], "application/json"),
    "trailing bytes": typed(GOOD + b"]", "application/json"),
    "not UTF-8": typed(b'{"instances": "\xff\xfe"}', "application/json"),
    "a word": typed(b'"instances"', "application/json", "bad_shape"),
    "null": typed(b"null", "application/json", "bad_shape"),
    "empty list": typed(b'{"instances": []}', "application/json"),
    "no rows key": typed(b'{"rows": [[1]]}', "application/json"),
    "instances is a number": typed(b'{"instances": 5}', "application/json"),
    "rank too low": typed(b'{"instances": [1, 2, 3]}', "application/json", "bad_shape"),
    "rank too high": typed(json.dumps({"instances": [ROWS.tolist()]}).encode(), "application/json", "bad_shape"),
    "wrong shape": typed(json.dumps({"instances": ROWS[:, :7].tolist()}).encode(), "application/json", "bad_shape"),
    "ragged": typed(b'{"instances": [[[1,2],[3]]]}', "application/json", "bad_shape"),
    "text for a number": typed(instances('"1"'), "application/json", "bad_shape"),
    "null for a number": typed(instances("null"), "application/json", "bad_shape"),
    "true for a number": typed(instances("true"), "application/json", "bad_shape"),
    "an object for a number": typed(instances("{}"), "application/json", "bad_shape"),
    "NaN": typed(instances("NaN"), "application/json"),
    "Infinity": typed(instances("Infinity"), "application/json"),
    "-Infinity": typed(instances("-Infinity"), "application/json"),
    "larger than float32": typed(instances("1e39"), "application/json", "bad_shape"),
    "unknown input": typed(b'{"inputs": {"no_such_input": [[1]]}}', "application/json", "bad_shape"),
    "two kinds of input": typed(b'{"inputs": [1], "instances": [1]}', "application/json"),
    "many open brackets": typed(b"[" * 500_000, "application/json"),
    "many nested brackets": typed(b"[" * 500_000 + b"]" * 500_000, "application/json"),
    "many nested objects": typed(b'{"a":' * 500_000 + b"1" + b"}" * 500_000, "application/json"),
    "a million open brackets": typed(b"[" * 10**6, "application/json", "body_too_large", 413),
    "a million nested brackets": typed(b"[" * 10**6 + b"]" * 10**6, "application/json", "body_too_large", 413),
    "a million nested objects": typed(b'{"a":' * 10**6 + b"1" + b"}" * 10**6, "application/json", "body_too_large", 413),
    "deep instances": typed(b'{"instances":' + b"[" * 900 + b"]" * 900 + b"}", "application/json", "bad_shape"),
}
LINES = {
    "empty": typed(b"", "application/jsonlines"),
    "a broken line": typed(model.to_lines(ROWS[:1]) + b"\n[[1,2", "application/jsonlines"),
    "a blank line": typed(model.to_lines(ROWS).replace(b"\n", b"\n\n"), "application/jsonlines"),
    "wrong shape": typed(b"[[1,2],[3,4]]\n", "application/jsonlines", "bad_shape"),
    "many nested brackets": typed(b"[" * 500_000 + b"]" * 500_000, "application/jsonlines"),
    "a million nested brackets": typed(b"[" * 10**6 + b"]" * 10**6, "application/jsonlines", "body_too_large", 413),
}
CSVS = {
    "empty": typed(b"", "text/csv"),
    "only newlines": typed(b"\n\n", "text/csv"),
    "too few columns": typed(CSV.rpartition(b",")[0], "text/csv", "bad_shape"),
    "too many columns": typed(CSV + b",1", "text/csv", "bad_shape"),
    "a word in a cell": typed(CSV.rpartition(b",")[0] + b",seven", "text/csv", "bad_shape"),
    "an empty cell": typed(CSV.rpartition(b",")[0] + b",", "text/csv", "bad_shape"),
    "nan": typed(CSV.rpartition(b",")[0] + b",nan", "text/csv", "bad_shape"),
    "an open quote": typed(b'"1,2,3', "text/csv"),
    "bytes that are no text": typed(b"\xff\xfe\x00", "text/csv"),
}
NPYS = {
    "empty": typed(b"", "application/x-npy"),
    "garbage": typed(b"not numpy at all", "application/x-npy"),
    "only magic": typed(NPY[:6], "application/x-npy"),
    "ends in the header": typed(NPY[:40], "application/x-npy"),
    "ends in the data": typed(NPY[:-5], "application/x-npy"),
    "trailing bytes": typed(NPY + b"!", "application/x-npy"),
    "another version": typed(NPY[:6] + b"\x09" + NPY[7:], "application/x-npy"),
    "header of 4 GiB": typed(b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 100, "application/x-npy"),
    "a pickle": typed(b"", "application/x-npy"),  # filled below
    "rank too low": typed(model.to_npy(ROWS[0, 0]), "application/x-npy", "bad_shape"),
    "rank too high": typed(model.to_npy(ROWS[None]), "application/x-npy", "bad_shape"),
    "wrong shape": typed(model.to_npy(ROWS[:, :, :7]), "application/x-npy", "bad_shape"),
    "no rows": typed(model.to_npy(ROWS[:0]), "application/x-npy"),
    "complex": typed(model.to_npy(ROWS.astype(np.complex64)), "application/x-npy", "bad_shape"),
    "text": typed(model.to_npy(ROWS.astype("U8")), "application/x-npy", "bad_shape"),
    "nan": typed(model.to_npy(with_value(np.nan)), "application/x-npy", "not_finite_input"),
    "infinity": typed(model.to_npy(with_value(np.inf)), "application/x-npy", "not_finite_input"),
    "minus infinity": typed(model.to_npy(with_value(-np.inf)), "application/x-npy", "not_finite_input"),
    "tensor/pt that is a zip": typed(b"PK\x03\x04" + b"\0" * 60, "tensor/pt"),
    "npz that is no zip": typed(b"PK\x03\x04" + b"\0" * 60, "application/x-npz"),
    "npz with an unknown name": typed(model.to_npz(ROWS, "no_such_input"), "application/x-npz", "bad_shape"),
    "npz cut short": typed(model.to_npz(ROWS)[:-30], "application/x-npz"),
    "raw bytes that are no rows": typed(ROWS.tobytes()[:-1], "application/octet-stream", "bad_shape"),
    "no raw bytes": typed(b"", "application/octet-stream"),
    "raw nan": typed(with_value(np.nan).tobytes(), "application/octet-stream", "not_finite_input"),
}
NPYS["a pickle"] = typed(model.to_npy(np.array([{"a": 1}], dtype=object)), "application/x-npy", "bad_shape")
HEADERS = {
    "unknown content type": typed(GOOD, "image/png", "unsupported_media_type", 415),
    "no content type and no JSON": Bad(request(b"1,2,3", None), 415, "unsupported_media_type"),
    "a form, as curl -d sends it": typed(b"a=b", "application/x-www-form-urlencoded", "unsupported_media_type", 415),
    "unknown charset": typed(GOOD, "application/json; charset=utf-7", "unsupported_media_type", 415),
    "unknown accept": Bad(request(GOOD, accept="image/png"), 406, "not_acceptable"),
    "accept nothing": Bad(request(GOOD, accept="*/*;q=0"), 406, "not_acceptable"),
    "unknown accept of the platform": Bad(request(GOOD, headers=("X-Amzn-SageMaker-Accept: image/png",)), 406, "not_acceptable"),
    "gzip": Bad(request(gzip.compress(GOOD), headers=("Content-Encoding: gzip",)), 415, "unsupported_media_type"),
    "GET": Bad(request(None, method="GET"), 405, "method_not_allowed"),
    "PUT": Bad(request(GOOD, method="PUT"), 405, "method_not_allowed"),
    "DELETE": Bad(request(None, method="DELETE"), 405, "method_not_allowed"),
    "OPTIONS": Bad(request(None, method="OPTIONS"), 405, "method_not_allowed"),
    "DELETE ping": Bad(request(None, method="DELETE", path="/ping"), 405, "method_not_allowed"),
    "no such path": Bad(request(GOOD, path="/invocation"), 404, "not_found"),
    "root": Bad(request(None, method="GET", path="/"), 404, "not_found"),
    "a path with a slash too many": Bad(request(GOOD, path="/invocations/"), 404, "not_found"),
    "a path outside": Bad(request(None, method="GET", path="/../etc/passwd"), 404, "not_found"),
    "one header of 100 kB": Bad(request(GOOD, headers=("X-Large: " + "v" * 100_000,)), 431, "headers_too_large", closes=True),
    "10,000 headers": Bad(
        request(GOOD, headers=tuple(f"X-{i}: 1" for i in range(10_000))), 431, "headers_too_large", closes=True
    ),
    "a path of 100 kB": Bad(request(GOOD, path="/" + "p" * 100_000), 431, "headers_too_large", closes=True),
    "a header that never ends": Bad(b"POST /invocations HTTP/1.1\r\nX: " + b"v" * 200_000, 431, "headers_too_large", closes=True),
}
LIES = {
    "negative length": lying("Content-Length: -5"),
    "length is a word": lying("Content-Length: many"),
    "length is empty": lying("Content-Length:"),
    "length with a plus": lying(f"Content-Length: +{len(GOOD)}"),
    "length in hexadecimal": lying("Content-Length: 0x20"),
    "length beyond 64 bits": lying("Content-Length: " + "9" * 30),
    "two lengths": lying(f"Content-Length: {len(GOOD)}", f"Content-Length: {len(GOOD) + 1}"),
    "two lengths in one": lying(f"Content-Length: {len(GOOD)}, {len(GOOD) + 1}"),
    "length and chunked": lying(f"Content-Length: {len(GOOD)}", "Transfer-Encoding: chunked"),
    "chunked and length": lying("Transfer-Encoding: chunked", f"Content-Length: {len(GOOD)}"),
    "an unknown transfer encoding": lying("Transfer-Encoding: rot13"),
    "chunk size is a word": Bad(chunked([]).removesuffix(b"0\r\n\r\n") + b"many\r\n", 400, "bad_request", closes=True),
    "chunk longer than said": Bad(chunked([]).removesuffix(b"0\r\n\r\n") + b"2\r\n[[1]]\r\n", 400, "bad_request", closes=True),
    "no HTTP": Bad(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n", 400, "bad_request", closes=True),
    "HTTP/3.0": Bad(request(GOOD).replace(b"HTTP/1.1", b"HTTP/3.0"), 400, "bad_request", closes=True),
    "header without colon": lying("no colon here", f"Content-Length: {len(GOOD)}"),
    "blank before the colon": lying(f"Content-Length : {len(GOOD)}"),
}
ALL = {f"{group} {name}": bad for group, table in
       (("json", JSON), ("lines", LINES), ("csv", CSVS), ("npy", NPYS), ("http", HEADERS), ("lie", LIES))
       for name, bad in table.items()}  # fmt: skip


def assert_good(reply: Response, rows: model.Array = ROWS) -> None:
    assert reply.status == 200, reply.raw[:300]
    assert model.close(model.from_json(reply.body), model.answers(rows))


@pytest.mark.parametrize("name", list(ALL))
def test_it_gets_its_error_is_counted_and_the_next_request_is_answered(digits: Tree, name: str) -> None:
    bad = ALL[name]
    before = digits.errors()
    with digits.wire(10.0) as wire:
        wire.send(bad.sent)
        reply = wire.read()
        assert (reply.status, reply.code) == (bad.status, bad.code), reply.message
        assert len(reply.body) < 1000, "errors are small"
        if bad.closes:
            assert reply.headers.get("connection") == "close"
            assert wire.closed_by_server()
        else:
            assert "connection" not in reply.headers
            assert_good(wire.post(GOOD))
    after = digits.errors()
    counted = {code: count - before.get(code, 0) for code, count in after.items() if count != before.get(code, 0)}
    assert counted == {bad.code: 1}
    with digits.wire() as wire:
        assert_good(wire.post(GOOD))


def test_errors_say_where_the_mistake_is(digits: Tree) -> None:
    with digits.wire() as wire:
        word = wire.ask(CSVS["a word in a cell"].sent).message
        assert "line 3" in word and "seven" in word
        assert "no_such_input" in wire.ask(JSON["unknown input"].sent).message
        given, _ = model.names()
        assert given in wire.ask(NPYS["nan"].sent).message
        assert "8" in wire.ask(NPYS["wrong shape"].sent).message
        assert wire.ask(HEADERS["GET"].sent).headers["allow"] == "POST"
        assert "text/csv" in wire.ask(HEADERS["unknown content type"].sent).message


def test_bad_requests_among_good_ones_harm_nobody(digits: Tree) -> None:
    """Many clients at once: each good one gets its own right answer, each bad one its own error."""
    bad = [b for name, b in ALL.items() if len(b.sent) < 100_000 and not name.startswith("http OPTIONS")]
    ended = threading.Event()

    def ask_well(seed: int) -> int:
        rows = model.some_rows(np.random.default_rng(seed), 4)
        count = 0
        with digits.wire() as wire:
            while not ended.is_set():
                mine = rows[: 1 + count % 4]
                body, kind = (model.to_npy(mine), "application/x-npy") if count % 2 else (model.to_json(mine), "application/json")
                reply = wire.post(body, kind)
                assert reply.status == 200, reply.raw[:300]
                assert model.close(model.decode(kind, reply.body), model.answers(mine))
                count += 1
        return count

    def ask_badly(some: list[Bad]) -> None:
        for one in some:
            with digits.wire() as wire:
                reply = wire.ask(one.sent)
                assert (reply.status, reply.code) == (one.status, one.code), reply.message

    with ThreadPoolExecutor(8) as pool:
        good = [pool.submit(ask_well, 100 + i) for i in range(4)]
        try:
            for job in [pool.submit(ask_badly, bad[i::4]) for i in range(4)]:
                job.result(60)
        finally:
            ended.set()
        assert all(job.result(30) > 0 for job in good)


def test_a_nan_in_a_batch_is_the_error_of_its_own_request_only(digits: Tree) -> None:
    """Sent while the engine is busy, so that good and bad ones share a batch, of one row each and of several."""
    rows = model.some_rows(np.random.default_rng(7), 24)
    rows[::4, 0, 0] = np.nan
    busy = request(model.to_npy(np.tile(np.abs(np.nan_to_num(rows)), (40, 1, 1))), "application/x-npy", "application/x-npy")
    for size in (1, 2):
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        wires = [digits.wire() for _ in range(len(parts) + 1)]
        wires[-1].send(busy)
        for wire, part in zip(wires, parts, strict=False):
            wire.send(request(model.to_npy(part), "application/x-npy", "application/json"))
        for wire, part in zip(wires, parts, strict=False):
            reply = wire.read()
            if np.isnan(part).any():
                assert (reply.status, reply.code) == (400, "not_finite_input")
            else:
                assert_good(reply, part)
        assert wires[-1].read().status == 200
        for wire in wires:
            wire.close()


def test_a_body_shorter_than_its_length_gets_an_answer_to_what_was_said(digits: Tree) -> None:
    """Too short a Content-Length cuts the document; the rest of it is no request, so the connection ends."""
    before = digits.errors().get("bad_request", 0)
    with digits.wire() as wire:
        wire.send(request(GOOD, headers=(f"Content-Length: {len(GOOD) - 9}",), length=False))
        assert wire.read().code == "bad_request"
        try:
            assert wire.read().code == "bad_request"
        except Closed as e:
            assert e.rest == b""
    assert digits.errors()["bad_request"] > before


def test_a_client_that_promises_more_than_it_sends_and_leaves_harms_nobody(digits: Tree) -> None:
    for _ in range(20):
        with digits.wire() as wire:
            wire.send(request(GOOD, headers=(f"Content-Length: {len(GOOD) + 10}",), length=False))
    with digits.wire() as wire:
        assert_good(wire.post(GOOD))
    eventually(lambda: digits.status()["fronts"][0]["connections"] == 0, "the connections are forgotten")
    eventually(lambda: digits.status()["fronts"][0]["in_flight"] == 0, "nothing is in flight")


# A tree with tight limits ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict() -> Iterator[Tree]:
    with serving("echo", EVENKEEL_MAX_BODY_MB="1", EVENKEEL_BODY_TIMEOUT_S="0.5", EVENKEEL_KEEP_ALIVE_S="2") as tree:
        yield tree


def test_a_body_that_stops_half_way_is_refused_with_408(strict: Tree) -> None:
    cut = [request(GOOD)[:-20], request(GOOD)[:40], chunked([GOOD])[:-20], b"P"]
    before = strict.errors().get("body_timeout", 0)
    wires = [strict.wire(15.0) for _ in cut]
    for wire, part in zip(wires, cut, strict=True):
        wire.send(part)
    for wire in wires:
        reply = wire.read()
        assert (reply.status, reply.code, reply.headers["connection"]) == (408, "body_timeout", "close")
        assert wire.closed_by_server()
        wire.close()
    assert strict.errors()["body_timeout"] - before == len(cut)


def test_a_body_that_stops_half_way_behind_a_good_request_does_not_disturb_its_answer(strict: Tree) -> None:
    with strict.wire(15.0) as wire:
        wire.send(request(b"[[1]]") + request(b"[[2]]")[:-2])
        assert wire.read().body == b"[[1.0]]"
        assert wire.read().code == "body_timeout"


def test_a_slow_but_steady_body_is_waited_for(strict: Tree) -> None:
    sent = request(b"[[1,2,3]]")
    with strict.wire() as wire:
        wire.send(sent[:-9])
        for byte in sent[-9:]:
            time.sleep(0.15)
            wire.send(bytes([byte]))
        assert wire.read().body == b"[[1.0,2.0,3.0]]"


def test_an_idle_connection_is_closed_without_a_word(strict: Tree) -> None:
    fresh, used = strict.wire(), strict.wire()
    assert used.post(b"[[1]]").status == 200
    assert fresh.closed_by_server(10.0) and used.closed_by_server(10.0)


def test_a_body_over_the_limit_is_refused_before_it_is_read(strict: Tree) -> None:
    for headers in ((), ("Expect: 100-continue",)):
        for length in (MIB + 1, 10**15):
            before = strict.errors().get("body_too_large", 0)
            with strict.wire(10.0) as wire:
                wire.send(request(b"", headers=(*headers, f"Content-Length: {length}"), length=False))
                reply = wire.read()
                assert (reply.status, reply.code, reply.interim) == (413, "body_too_large", 0)
                assert reply.headers["connection"] == "close" and wire.closed_by_server()
            assert strict.errors()["body_too_large"] == before + 1


def test_a_client_that_sends_a_large_body_regardless_still_reads_its_413(strict: Tree) -> None:
    with strict.wire(10.0) as wire:
        try:
            wire.send(request(b"1" * (5 * MIB)))
        except OSError:
            pass  # refused while it was still sending; the answer is there all the same
        assert wire.read().code == "body_too_large"


def test_a_chunked_body_is_refused_when_it_passes_the_limit(strict: Tree) -> None:
    with strict.wire(10.0) as wire:
        wire.send(chunked([]).removesuffix(b"0\r\n\r\n"))
        piece = b"%x\r\n%b\r\n" % (100_000, b"1" * 100_000)
        try:
            for _ in range(12):
                wire.send(piece)
        except OSError:
            pass
        assert wire.read().code == "body_too_large"


def test_a_body_of_exactly_the_limit_is_taken(strict: Tree) -> None:
    body = b"[[1]]".ljust(MIB)
    with strict.wire() as wire:
        assert wire.post(body).status == 200
        assert wire.ask(chunked([body])).status == 200
        assert wire.post(body + b" ").status == 413


def test_a_refused_body_behind_a_good_request_waits_for_its_turn(strict: Tree) -> None:
    with strict.wire() as wire:
        wire.send(request(b"[[1]]") + request(b"", headers=(f"Content-Length: {2 * MIB}",), length=False))
        assert wire.read().body == b"[[1.0]]"
        assert wire.read().code == "body_too_large"


def test_nothing_of_all_this_is_left_in_the_fronts(strict: Tree, digits: Tree) -> None:
    for tree in (strict, digits):

        def idle(tree: Tree = tree) -> bool:
            front = tree.status()["fronts"][0]
            return bool(front["in_flight"] == front["queue_rows"] == front["slot_bytes"] == 0)

        eventually(idle, "no request in flight and no slot held")
        assert tree.status()["restarts"] == {"front": 0, "engine": 0, "sidecar": 0}
