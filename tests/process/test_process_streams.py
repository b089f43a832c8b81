"""A handler that yields, seen by clients: records as they come, errors in their place, nobody held up, nothing left over."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stream_model import ask_for, stream_folder
from tests.support.tree import MemoryWatch, Tree, eventually, serving
from tests.support.wire import Closed, Wire, request

EVENTS, LINES = "text/event-stream", "application/jsonlines"
pytestmark = pytest.mark.contract("12.21")


class Streaming:
    """A tree, and what its handler has noted."""

    def __init__(self, tree: Tree, notes: Path) -> None:
        self.tree, self._notes = tree, notes

    def noted(self, *words: object) -> list[str]:
        wanted = " ".join(map(str, words)) + " "
        return [line for line in self._notes.read_text().splitlines() if f"{line} ".startswith(wanted)]

    def idle(self) -> bool:
        front = self.tree.status()["fronts"][0]
        return bool(front["in_flight"] == front["queue_rows"] == front["slot_bytes"] == 0)

    def assert_good(self) -> None:
        with self.tree.wire() as wire:
            assert wire.post(b'{"whole": 7}').body == b"7"
        eventually(self.idle, "nothing is in flight and no slot held")


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Streaming]:
    folder, notes = stream_folder(tmp_path_factory.mktemp("stream"))
    with serving(folder) as tree:
        yield Streaming(tree, notes)


def opened(wire: Wire, body: bytes, accept: str | None = None) -> dict[str, str]:
    wire.send(request(body, accept=accept))
    status, headers = wire.begin()
    assert status == 200 and headers["transfer-encoding"] == "chunked" and "content-length" not in headers
    return headers


def cut(wire: Wire) -> bytes:
    """What comes until the connection ends, which must be in the middle of the answer."""
    rest = b""
    with pytest.raises(Closed):
        while True:
            part = wire.chunk()
            assert part, "the answer says that it is whole"
            rest += part
    return rest


def test_each_record_reaches_the_client_before_the_next_is_made(streaming: Streaming, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with streaming.tree.wire() as wire:
        headers = opened(wire, ask_for(3, **{"wait at": 1, "for": str(gate)}))
        assert headers["content-type"] == LINES
        assert wire.chunk() == b'{"i":0}\n'
        gate.touch()
        assert [wire.chunk() for _ in range(3)] == [b'{"i":1}\n', b'{"i":2}\n', b""]
    streaming.assert_good()


def test_records_are_events_for_whoever_asks_for_events(streaming: Streaming) -> None:
    with streaming.tree.wire() as wire:
        assert opened(wire, ask_for(2), EVENTS)["content-type"] == EVENTS
        assert [wire.chunk() for _ in range(3)] == [b'data: {"i":0}\n\n', b'data: {"i":1}\n\n', b""]


def test_text_goes_out_as_the_script_gave_it_with_the_type_that_it_gave(streaming: Streaming) -> None:
    with streaming.tree.wire() as wire:
        assert opened(wire, ask_for(2, say="höher", type="text/plain"), EVENTS)["content-type"] == "text/plain"
        assert [wire.chunk() for _ in range(3)] == ["höher".encode(), "höher".encode(), b""]


def test_custom_attributes_set_before_the_first_record_come_with_a_stream(streaming: Streaming) -> None:
    with streaming.tree.wire() as wire:
        assert opened(wire, ask_for(1, attributes="k=v"))["x-amzn-sagemaker-custom-attributes"] == "k=v"


def test_a_stream_of_nothing_is_an_empty_answer_and_empty_records_end_nothing(streaming: Streaming) -> None:
    with streaming.tree.wire() as wire:
        opened(wire, ask_for(0))
        assert wire.chunk() == b""
        opened(wire, ask_for(5, say=""))
        assert wire.chunk() == b""
        assert wire.post(b'{"whole": 1}').body == b"1"


@pytest.mark.parametrize("size", [8_000, 70_000, 9_000_000])
def test_a_record_of_any_size_arrives_whole(streaming: Streaming, size: int) -> None:
    with streaming.tree.wire() as wire:
        reply = wire.post(ask_for(3, say="0123456789", times=size // 10, type="text/plain"))
    assert reply.body == b"0123456789" * (size // 10 * 3)


def test_many_small_records_keep_their_order(streaming: Streaming) -> None:
    with streaming.tree.wire() as wire:
        lines = wire.post(ask_for(5000)).body.splitlines()
    assert [json.loads(line)["i"] for line in lines] == list(range(5000))


def test_a_request_sent_before_a_stream_has_ended_is_answered_after_it(streaming: Streaming) -> None:
    with streaming.tree.wire() as wire:
        wire.send(request(ask_for(3, s=0.05)) + request(b'{"whole": 5}') + request(ask_for(1)))
        assert wire.read().body.count(b"\n") == 3
        assert wire.read().body == b"5"
        assert wire.read().body == b'{"i":0}\n'


def test_streams_take_turns_and_other_requests_are_answered_between_their_parts(streaming: Streaming) -> None:
    wires = [streaming.tree.wire() for _ in range(3)]
    for wire in wires:
        opened(wire, ask_for(10**9, "turns", s=0.01))
    for wire in wires:
        assert wire.chunk() == b'{"i":0}\n'
    with streaming.tree.wire() as other:
        assert other.post(b'{"whole": "quick"}').body == b'"quick"'
    assert [wire.chunk() for wire in wires] == [b'{"i":1}\n'] * 3
    for wire in wires:
        wire.close()
    eventually(lambda: len(streaming.noted("left turns")) == 3, "all generators were closed")
    streaming.assert_good()


def test_an_old_client_gets_the_records_without_chunks_and_the_end_of_the_connection(streaming: Streaming) -> None:
    with streaming.tree.wire() as wire:
        wire.send(request(ask_for(2), version="1.0"))
        status, headers = wire.begin()
        assert status == 200 and "transfer-encoding" not in headers and headers["connection"] == "close"
        with pytest.raises(Closed) as closed:
            wire._take(1000)
        assert closed.value.rest == b'{"i":0}\n{"i":1}\n'


# When it goes wrong ---------------------------------------------------------------------------------------------------


def test_a_failure_before_the_first_record_is_an_error_like_any_other(streaming: Streaming) -> None:
    with streaming.tree.wire() as wire:
        reply = wire.post(ask_for(3, **{"fail at": -1}))
        assert (reply.status, reply.code) == (500, "model_error") and "before the first" in reply.message
        assert wire.post(b'{"whole": 5}').body == b"5", "the connection goes on"


@pytest.mark.parametrize(
    ("accept", "want"),
    [
        (None, b'{"i":0}\n{"i":1}\n{"error":{"code":"model_error","message":"transform_fn raised ValueError: tired of it"}}\n'),
        (EVENTS, b'data: {"i":0}\n\ndata: {"i":1}\n\nevent: error\ndata: {"error":{"code":"model_error","message":"transform_fn '
                 b'raised ValueError: tired of it"}}\n\n'),
    ],
)  # fmt: skip
def test_a_failure_after_the_first_record_is_one_more_record_and_a_cut_connection(
    streaming: Streaming, accept: str | None, want: bytes
) -> None:
    before = streaming.tree.errors().get("model_error", 0)
    with streaming.tree.wire() as wire:
        opened(wire, ask_for(5, **{"fail at": 2}), accept)
        assert cut(wire) == want
    assert streaming.tree.errors()["model_error"] == before + 1
    streaming.assert_good()


def test_a_format_without_a_place_for_errors_is_cut_without_a_word(streaming: Streaming) -> None:
    with streaming.tree.wire() as wire:
        opened(wire, ask_for(5, say="x", type="audio/mpeg", **{"fail at": 2}))
        assert cut(wire) == b"xx"


def test_a_client_that_leaves_closes_the_generator_and_frees_its_slot(streaming: Streaming) -> None:
    before = streaming.tree.status()["fronts"][0]["abandoned"]
    wire = streaming.tree.wire()
    opened(wire, ask_for(10**9, "leaver", s=0.01))
    assert wire.chunk() == b'{"i":0}\n'
    wire.close()
    eventually(lambda: streaming.noted("left leaver"), "the generator saw GeneratorExit")
    streaming.assert_good()
    assert streaming.tree.status()["fronts"][0]["abandoned"] == before + 1


def test_a_reader_that_does_not_read_stops_the_generator_and_no_memory_grows(streaming: Streaming) -> None:
    """8 GB would come; what was made before the generator stopped fits into the ring, the front's buffer and the kernel's."""
    wire = streaming.tree.wire()
    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    with MemoryWatch(streaming.tree) as watch:
        opened(wire, ask_for(10**6, "slow", say="12345678", times=1000))
        end_s = time.monotonic() + 3  # time enough to make far more, if nothing stopped it
        while time.monotonic() < end_s:  # other requests are answered all the while
            with streaming.tree.wire() as other:
                assert other.post(b'{"whole": 1}').status == 200
    wire.close()
    left = eventually(lambda: streaming.noted("left slow"), "the generator was closed")
    made = int(left[0].split()[-1])
    assert 0 < made * 8000 < 16 << 20, f"{made} parts of 8 kB were made for nobody"
    assert watch.growth_bytes < 32 << 20
    streaming.assert_good()


def test_a_slow_reader_gets_everything(streaming: Streaming) -> None:
    with streaming.tree.wire() as wire:
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024)
        opened(wire, ask_for(600, say="12345678", times=1000))
        eventually(lambda: streaming.tree.status()["fronts"][0]["slot_bytes"] > 0, "it is under way")
        total = 0
        while part := wire.chunk():
            total += len(part)
    assert total == 600 * 8000


def test_more_streams_than_there_is_room_for_are_refused_until_one_ends(streaming: Streaming) -> None:
    wires = [streaming.tree.wire() for _ in range(64)]
    for wire in wires:
        opened(wire, ask_for(10**9, "crowd", say="12345678", times=1000))
    with streaming.tree.wire() as one_more:
        reply = one_more.post(ask_for(1))
        assert (reply.status, reply.code) == (429, "overloaded") and "64 streams" in reply.message
    for wire in wires:
        wire.close()
    eventually(lambda: len(streaming.noted("left crowd")) == 64, "all generators were closed")
    with streaming.tree.wire() as one_more:
        assert one_more.post(ask_for(1)).body == b'{"i":0}\n'


def test_an_engine_that_ends_in_the_middle_ends_the_stream_and_it_is_not_run_again(tmp_path: Path) -> None:
    folder, notes = stream_folder(tmp_path)
    with serving(folder) as tree:
        streaming = Streaming(tree, notes)
        other = tree.wire()
        opened(other, ask_for(10**9, "other", s=0.01))
        assert other.chunk() == b'{"i":0}\n'
        with tree.wire() as wire:
            opened(wire, ask_for(5, "mortal", **{"die at": 2}))
            assert json.loads(cut(wire).splitlines()[-1])["error"]["code"] == "engine_lost"
        assert json.loads(cut(other).splitlines()[-1])["error"]["code"] == "engine_lost"
        other.close()
        streaming.assert_good()
        assert len(streaming.noted("begun mortal")) == len(streaming.noted("begun other")) == 1
        assert tree.status()["restarts"]["engine"] == 1


# Time -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Streaming]:
    folder, notes = stream_folder(tmp_path_factory.mktemp("hasty"))
    limits = {"EVENKEEL_REQUEST_TIMEOUT_S": "1", "EVENKEEL_STREAM_TIMEOUT_S": "3", "EVENKEEL_STUCK_S": "1"}
    with serving(folder, **limits) as tree:
        yield Streaming(tree, notes)


def test_a_stream_may_last_longer_than_a_request_but_not_longer_than_a_stream(hasty: Streaming) -> None:
    with hasty.tree.wire() as wire:
        opened(wire, ask_for(10**9, "endless", s=0.05))
        records = cut(wire).splitlines()
    assert len(records) > 20, "it went on beyond the deadline of a request"
    last = json.loads(records[-1])["error"]
    assert last["code"] == "deadline_exceeded" and "EVENKEEL_STREAM_TIMEOUT_S" in last["message"]
    eventually(lambda: hasty.noted("left endless"), "the generator was closed")
    hasty.assert_good()


def test_a_stream_whose_next_part_does_not_come_is_ended_and_its_engine_replaced(hasty: Streaming) -> None:
    with hasty.tree.wire() as wire:
        opened(wire, ask_for(5, "hangs", **{"hang at": 2}))
        last = json.loads(cut(wire).splitlines()[-1])["error"]
        assert last["code"] == "deadline_exceeded" and "no further part" in last["message"]
    eventually(lambda: hasty.tree.status()["restarts"]["engine"] == 1, "the engine was replaced")
    eventually(lambda: hasty.tree.ping() == 200, "/ping is 200 again")
    hasty.assert_good()


@pytest.mark.contract("12.12")
def test_a_stream_in_progress_is_finished_before_the_container_leaves(tmp_path: Path) -> None:
    folder, _ = stream_folder(tmp_path)
    tree = Tree(folder).wait_ready()
    with tree.wire() as wire:
        opened(wire, ask_for(20, s=0.05))
        assert wire.chunk() == b'{"i":0}\n'
        tree.tell(signal.SIGTERM)
        rest = []
        while part := wire.chunk():
            rest.append(part)
        assert len(rest) == 19
    assert tree.process.wait(30) == 0
    tree.assert_nothing_left()


@pytest.mark.contract("12.12")
def test_a_stream_that_outlasts_the_drain_is_told_so_and_the_container_leaves_in_time(tmp_path: Path) -> None:
    folder, _ = stream_folder(tmp_path)
    tree = Tree(folder, EVENKEEL_DRAIN_S="5").wait_ready()
    with tree.wire() as wire:
        opened(wire, ask_for(10**9, s=0.05))
        assert wire.chunk() == b'{"i":0}\n'
        tree.tell(signal.SIGTERM)
        last = json.loads(cut(wire).splitlines()[-1])["error"]
        assert last["code"] == "not_ready" and "stops" in last["message"]
    assert tree.process.wait(30) == 0
    tree.assert_nothing_left()
