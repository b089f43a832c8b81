"""User code that misbehaves: its own request gets an error, the log gets the traceback, and everybody else goes on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.handler_model import Gate, asking, handler_folder
from tests.support.tree import Tree, eventually, serving
from tests.support.wire import Response, request


@pytest.fixture(scope="module")
def handler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    with serving(handler_folder(tmp_path_factory.mktemp("handler"))) as tree:
        yield tree


@pytest.fixture(scope="module")
def batched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    with serving(handler_folder(tmp_path_factory.mktemp("batched"), batched=True), EVENKEEL_STUCK_S="60") as tree:
        yield tree


def ask(tree: Tree, body: bytes, request_id: str = "") -> Response:
    headers = (f"X-Amzn-SageMaker-Inference-Id: {request_id}",) if request_id else ()
    with tree.wire() as wire:
        return wire.post(body, "application/json", None, *headers)


def assert_good(tree: Tree) -> None:
    for x in (1, 2):
        reply = ask(tree, asking(x))
        assert (reply.status, reply.json()["x"], reply.headers["content-type"]) == (200, 2 * x, "application/json")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (asking(1, "raise", say="the third tooth is missing"), "ValueError: the third tooth is missing"),
        (asking(1, "raise in input_fn"), "KeyError"),
        (asking(1, "raise from", say="outer"), "RuntimeError: outer"),
        (asking(1, "exit"), "SystemExit"),
        (asking(1, "exit", code=3), "SystemExit"),
        (asking(1, "exit", code="bye"), "SystemExit: bye"),
        (asking(1, "interrupt"), "KeyboardInterrupt"),
        (asking(1, "object"), "object"),
        (asking(1, "none"), "None"),
        (b"{not json", "JSONDecodeError"),
    ],
)
def test_what_a_handler_raises_is_the_error_of_its_request_and_is_in_the_log_under_its_id(
    handler: Tree, body: bytes, said: str
) -> None:
    request_id = f"req-{abs(hash((body, said)))}"
    before = handler.errors().get("model_error", 0)
    reply = ask(handler, body, request_id)
    assert (reply.status, reply.code) == (500, "model_error")
    assert said in reply.message
    assert "Traceback" not in reply.message and str(handler.settings["EVENKEEL_MODEL_DIR"]) not in reply.message
    assert handler.errors()["model_error"] == before + 1

    logged = eventually(lambda: [r for r in handler.events("handler_error") if r.get("request_id") == request_id], "it is logged")
    assert said in logged[0]["message"]
    if said not in ("object", "None"):  # what is wrong with an answer was noticed outside of the user's code
        assert said in logged[0]["traceback"] and "inference.py" in logged[0]["traceback"]
    assert_good(handler)
    assert handler.status()["restarts"]["engine"] == 0


def test_an_output_that_is_not_a_number_is_an_error(handler: Tree) -> None:
    reply = ask(handler, asking(1, "nan"))
    assert reply.status == 500 and reply.code in ("model_error", "not_finite_output")


@pytest.mark.parametrize(
    "say",
    ["plain", 'with "quotes" and \\ backslashes', "two\nlines\n\nand blanks", "\x00\x1b[31mcontrol\x7f", "höher → ∞ 😀",
     "é" * 5000, "x" * 20_000, '{"looks": "like JSON"}', "\ud800 alone", "😀" * 3000],
    ids=["plain", "quotes", "lines", "control", "unicode", "two-byte", "long", "json", "surrogate", "four-byte"],
)  # fmt: skip
@pytest.mark.parametrize("do", ["print", "raise", "raise from"])
def test_whatever_a_handler_says_the_log_stays_one_json_object_a_line(handler: Tree, do: str, say: str) -> None:
    before = len(handler.out.read_bytes())
    reply = ask(handler, asking(4, do, say=say), "speaks")
    assert reply.status == (200 if do == "print" else 500), reply.raw[:300]
    assert len(reply.body) < 5000
    assert_good(handler)
    assert eventually(lambda: handler.log(before), "it is logged")
    assert handler.status()["restarts"]["engine"] == 0


def test_printed_lines_reach_the_log_with_the_name_of_their_stream(handler: Tree) -> None:
    assert ask(handler, asking(1, "print", say="unmistakable 4711")).status == 200

    def streams() -> bool:
        found = {r["stream"] for r in handler.events("user_output") if "unmistakable 4711" in r.get("message", "")}
        return {"stdout", "stderr"} <= found

    eventually(streams, "both lines are in the log")


def test_what_is_written_below_python_breaks_no_log_line(handler: Tree) -> None:
    """Libraries in C and child processes write to the descriptors themselves."""
    before = len(handler.out.read_bytes())
    assert ask(handler, asking(1, "print below")).status == 200
    assert_good(handler)
    handler.log(before)


def test_a_raising_handler_among_good_requests_harms_nobody(handler: Tree) -> None:
    def one(i: int) -> tuple[int, int]:
        reply = ask(handler, asking(i, "raise" if i % 3 == 0 else "", say="no"))
        return reply.status, reply.json()["x"] if reply.status == 200 else -1

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(one, range(120)))
    assert found == [(500, -1) if i % 3 == 0 else (200, 2 * i) for i in range(120)]


def test_a_large_answer_of_a_handler_comes_back_whole(handler: Tree) -> None:
    for size in (10, 15_000, 17_000, 100_000, 9_000_000):
        reply = ask(handler, asking(1, "large", size=size))
        assert reply.status == 200 and reply.json()["x"] == "v" * size


def test_a_compressed_body_is_refused_for_handlers_too(handler: Tree) -> None:
    with handler.wire() as wire:
        reply = wire.post(b"\x1f\x8b...", "application/json", None, "Content-Encoding: gzip")
    assert (reply.status, reply.code) == (415, "unsupported_media_type")


# Batched --------------------------------------------------------------------------------------------------------------


def in_flight(tree: Tree) -> int:
    return int(tree.status()["fronts"][0]["in_flight"])


def test_a_batched_handler_gets_several_requests_at_once_and_each_gets_its_own_answer(batched: Tree) -> None:
    first, gate = batched.wire(), Gate(batched.tmp)
    first.send(request(gate.hold(50)))
    eventually(lambda: [r for r in batched.events("user_output") if r.get("message") == "begun 50"], "the engine is busy")
    wires = [batched.wire() for _ in range(12)]
    for i, wire in enumerate(wires):
        wire.send(request(asking(i)))
    eventually(lambda: in_flight(batched) == 13, "all are accepted")
    gate.open()
    answers = [wire.read().json() for wire in wires]
    assert [a["x"] for a in answers] == [2 * i for i in range(12)]
    assert max(a["together"] for a in answers) > 1
    assert first.read().json()["x"] == 100
    for wire in (first, *wires):
        wire.close()


def test_one_bad_request_in_a_batch_fails_alone(batched: Tree) -> None:
    with batched.wire() as first:
        gate = Gate(batched.tmp)
        first.send(request(gate.hold(0)))
        wires = [batched.wire() for _ in range(10)]
        for i, wire in enumerate(wires):
            what = {2: "raise", 5: "raise in input_fn", 7: "exit"}.get(i, "")
            wire.send(request(asking(i, what, say=f"number {i}")))
        eventually(lambda: in_flight(batched) == 11, "all are accepted")
        gate.open()
        for i, wire in enumerate(wires):
            reply = wire.read()
            if i in (2, 5, 7):
                assert (reply.status, reply.code) == (500, "model_error")
                assert i != 2 or "number 2" in reply.message
            else:
                assert (reply.status, reply.json()["x"]) == (200, 2 * i)
            wire.close()
        assert first.read().status == 200


def test_a_batched_handler_that_returns_too_few_answers_is_told_so(batched: Tree) -> None:
    reply = ask(batched, asking(1, "too few"))
    assert (reply.status, reply.code) == (500, "model_error") and "0 predictions" in reply.message
    assert_good(batched)


# Handlers that never return, or take the whole process with them ------------------------------------------------------


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """Deadlines of two seconds."""
    folder = handler_folder(tmp_path_factory.mktemp("impatient"))
    with serving(folder, EVENKEEL_REQUEST_TIMEOUT_S="2", EVENKEEL_STUCK_S="1") as tree:
        yield tree


def good_again(tree: Tree) -> None:
    def good() -> bool:
        reply = ask(tree, asking(3))
        return reply.status == 200 and reply.json()["x"] == 6

    def idle() -> bool:
        front = tree.status()["fronts"][0]
        return bool(front["in_flight"] == front["queue_rows"] == front["slot_bytes"] == 0)

    eventually(good, "requests are answered again")
    eventually(lambda: tree.ping() == 200, "/ping is 200 again")
    eventually(idle, "nothing is in flight and no slot held")


def test_ping_is_answered_while_the_only_engine_is_busy(batched: Tree) -> None:
    with ThreadPoolExecutor(1) as pool:
        gate = Gate(batched.tmp)
        waiting = pool.submit(ask, batched, gate.hold(5))
        eventually(lambda: [r for r in batched.events("user_output") if r.get("message") == "begun 5"], "the engine is busy")
        assert {batched.ping() for _ in range(20)} == {200} and not waiting.done()
        gate.open()
        assert waiting.result().json()["x"] == 10


@pytest.mark.parametrize("how", ["hang", "busy hang"])
def test_a_handler_that_never_returns_ends_at_its_deadline_and_others_go_on(impatient: Tree, how: str) -> None:
    before = impatient.errors().get("deadline_exceeded", 0)
    reply = ask(impatient, asking(1, how), "never")
    assert (reply.status, reply.code) == (504, "deadline_exceeded")
    assert impatient.errors()["deadline_exceeded"] == before + 1
    good_again(impatient)


def test_requests_that_wait_behind_a_hanging_one_end_by_their_deadline_at_the_latest(impatient: Tree) -> None:
    with ThreadPoolExecutor(8) as pool:
        hanging = pool.submit(ask, impatient, asking(77, "hang"))
        eventually(lambda: [r for r in impatient.events("user_output") if r.get("message") == "hanging 77"], "it hangs")
        waiting = [pool.submit(ask, impatient, asking(i)) for i in range(5)]
        assert hanging.result().status == 504
        for i, one in enumerate(waiting):
            reply = one.result()
            assert (reply.status == 200 and reply.json()["x"] == 2 * i) or reply.code == "deadline_exceeded"
    good_again(impatient)


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """Its handler will end the engine; restarts become slower and slower, so few tests share it."""
    with serving(handler_folder(tmp_path_factory.mktemp("mortal")), EVENKEEL_RESTART_LIMIT="20", EVENKEEL_STUCK_S="60") as tree:
        yield tree


def test_a_request_that_ends_the_engine_twice_is_given_up_and_others_go_on(mortal: Tree) -> None:
    before = mortal.status()
    reply = ask(mortal, asking(1, "die"))
    assert (reply.status, reply.code) == (500, "poisoned_request")
    assert "retry-after" not in reply.headers
    good_again(mortal)
    after = mortal.status()
    assert after["restarts"]["engine"] - before["restarts"]["engine"] == 2
    assert after["fronts"][0]["resubmitted"] - before["fronts"][0]["resubmitted"] == 1


def test_requests_queued_beside_one_that_ends_the_engine_are_answered(mortal: Tree) -> None:
    """They did nothing wrong: only one of them was running."""
    with ThreadPoolExecutor(7) as pool:
        gate = Gate(mortal.tmp)
        first = pool.submit(ask, mortal, gate.hold(88))
        eventually(lambda: [r for r in mortal.events("user_output") if r.get("message") == "begun 88"], "the engine is busy")
        others = [pool.submit(ask, mortal, asking(i, "die" if i == 2 else "")) for i in range(6)]
        eventually(lambda: in_flight(mortal) == 7, "all are accepted")
        gate.open()
        assert first.result().json()["x"] == 176
        replies = [one.result() for one in others]
    assert replies[2].code == "poisoned_request"
    assert [r.status for i, r in enumerate(replies) if i != 2] == [200] * 5, [r.body for r in replies]
    good_again(mortal)
