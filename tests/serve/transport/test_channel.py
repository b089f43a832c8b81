"""The socket between two processes of ours, one of which may die at any byte."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterator

import pytest

from evenkeel.serve.transport.arena import Arena, read_spill, spill
from evenkeel.serve.transport.channel import MEANING, Channel, ChannelClosed, SendWaits
from evenkeel.serve.transport.descriptor import RECORD_BYTES
from evenkeel.serve.transport.slots import RETURN_PAGES_FROM, Slots
from tests.support.stubborn import receives_fail, sends_fail

ONE = bytes(range(64))
TWO = b"\x7f" * RECORD_BYTES


def nobody(channel: Channel, waits: SendWaits) -> None:
    """The test looks for itself."""


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    left, right = (Channel(s, nobody) for s in socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
    yield left, right
    left.close()
    right.close()


def small_buffers(channel: Channel) -> None:
    channel.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)


def test_nothing_to_read_is_no_record_and_no_wait(ends: tuple[Channel, Channel]) -> None:
    assert ends[0].receive() == b""


def test_records_arrive_together_and_in_order(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    left.send(ONE)
    left.send(TWO)
    assert right.receive() == ONE + TWO


def test_a_peer_that_closes_is_reported_after_what_it_said(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    left.send(ONE)
    left.close()
    assert right.receive() == ONE
    with pytest.raises(ChannelClosed):
        right.receive()


def test_a_peer_that_closes_in_the_middle_of_a_record_is_reported_and_does_not_spin_the_reader(
    ends: tuple[Channel, Channel],
) -> None:
    """The loop of a reader that lets go when it is told: one wake-up for the bytes, one for the end, then none."""
    left, right = ends
    left.sock.send(ONE + TWO[:10])
    left.close()
    records, wakes, watched = b"", 0, [right.sock]
    while select.select(watched, [], [], 0)[0]:
        wakes += 1
        assert wakes <= 2, "the reader spins"
        try:
            records += right.receive()
        except ChannelClosed:
            watched = []
            break
    assert records == ONE and watched == []


def test_a_peer_that_dies_with_our_bytes_unread_is_reported_too(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    right.send(ONE)
    left.close()
    with pytest.raises(ChannelClosed):
        right.receive()


def test_sending_to_a_peer_that_is_gone_raises_nothing_and_keeps_nothing(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    right.close()
    left.send(ONE)
    assert not left.unsent and left.waits is SendWaits.NOTHING


def test_what_a_full_socket_does_not_take_is_sent_later_without_loss(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    small_buffers(left)
    sent = b"".join(i.to_bytes(4, "little") * 16 for i in range(2000))
    for i in range(0, len(sent), 640):
        left.send(sent[i : i + 640])
    assert left.unsent
    got = b""
    while len(got) < len(sent):
        piece = right.receive()
        assert piece or left.unsent, "something was lost"
        got += piece
        left.flush()
    assert got == sent and not left.unsent


def test_whoever_owns_a_channel_is_told_when_records_wait_and_when_all_are_out() -> None:
    told: list[SendWaits] = []
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    left, right = Channel(ours, lambda channel, waits: told.append(waits)), Channel(theirs, nobody)
    small_buffers(left)
    left.send(ONE)
    assert told == []
    left.send(TWO * 2000)
    left.send(ONE)
    left.flush()
    assert told == [SendWaits.PEER]
    while left.unsent:
        right.receive()
        left.flush()
    left.send(ONE)
    assert told == [SendWaits.PEER, SendWaits.NOTHING]
    left.close()
    right.close()


def test_a_file_travels_with_its_record(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    fd = spill(b"a large answer")
    left.send(ONE)
    left.send_with(TWO, fd, gives=True)
    got = b""
    while len(got) < 2 * RECORD_BYTES:
        got += right.receive()
    assert got == ONE + TWO and len(right.fds) == 1
    theirs = right.fds.popleft()
    assert read_spill(theirs, 14) == b"a large answer"
    os.close(theirs)


def test_files_arrive_in_the_order_of_their_records(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    for i in range(20):
        fd = spill(b"%02d" % i)
        left.send_with(bytes([i]) * RECORD_BYTES, fd, gives=True)
    got = b""
    while len(got) < 20 * RECORD_BYTES:
        got += right.receive()
    assert [read_spill(fd, 2) for fd in right.fds] == [b"%02d" % i for i in range(20)]


def test_a_file_that_nobody_asked_for_is_closed_with_the_channel(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    read_end, write_end = os.pipe()
    left.send_with(ONE, write_end, gives=True)
    right.receive()
    right.close()
    assert os.read(read_end, 1) == b"", "the pipe's other end is still open somewhere"
    os.close(read_end)


def test_a_record_with_a_file_waits_for_the_records_before_it(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    small_buffers(left)
    left.send(TWO * 200)
    assert left.unsent
    right.receive()
    fd = spill(b"x")
    left.send_with(ONE, fd, gives=True)
    got = b""
    while not got.endswith(ONE):
        got += right.receive()
        left.flush()
    assert len(got) % RECORD_BYTES == 0 and len(right.fds) == 1


LATER = [n for n, waits in MEANING.items() if waits is not SendWaits.NOTHING]
GONE = [n for n, waits in MEANING.items() if waits is SendWaits.NOTHING]
named = pytest.mark.parametrize("with_file", [False, True], ids=["a record", "a record with a file"])


def code(number: int) -> str:
    return errno.errorcode[number]


def test_the_table_knows_every_error_that_a_send_may_meet() -> None:
    assert {code(n) for n in LATER} == {"EAGAIN", "EINTR", "ENOBUFS", "ENOMEM", "EMFILE", "ENFILE", "ETOOMANYREFS"}
    assert {code(n) for n in GONE} == {"EPIPE", "ECONNRESET", "ENOTCONN", "EBADF"}


@pytest.mark.parametrize("number", LATER, ids=code)
@named
def test_what_could_not_go_out_just_now_goes_out_later_once_and_in_order(
    ends: tuple[Channel, Channel], number: int, with_file: bool
) -> None:
    left, right = ends
    sends_fail(left, number, times=2)
    if with_file:
        left.send_with(ONE, spill(b"with it"), gives=True)
    else:
        left.send(ONE)
    assert left.waits is MEANING[number] and left.unsent == RECORD_BYTES
    left.send(TWO)
    left.flush()
    assert left.waits is MEANING[number] and right.receive() == b""
    left.flush()
    assert left.waits is SendWaits.NOTHING and not left.unsent
    assert right.receive() + right.receive() == ONE + TWO
    assert [read_spill(fd, 7) for fd in right.fds] == [b"with it"] * with_file


@pytest.mark.parametrize("number", GONE, ids=code)
@named
def test_what_nobody_will_read_waits_for_nothing_and_its_file_is_closed(
    ends: tuple[Channel, Channel], number: int, with_file: bool
) -> None:
    left, _ = ends
    sends_fail(left, number)
    read_end, write_end = os.pipe()
    if with_file:
        left.send_with(ONE, write_end, gives=True)
    else:
        left.send(ONE)
        os.close(write_end)
    assert left.waits is SendWaits.NOTHING and not left.unsent
    assert os.read(read_end, 1) == b"", "the other end is open still"
    os.close(read_end)


@named
def test_an_error_that_the_table_does_not_know_is_a_bug_of_ours(ends: tuple[Channel, Channel], with_file: bool) -> None:
    left, _ = ends
    sends_fail(left, errno.EMSGSIZE)
    with pytest.raises(AssertionError, match="no table of ours knows"):
        left.send_with(ONE, 0, gives=False) if with_file else left.send(ONE)


@pytest.mark.parametrize("number", LATER, ids=code)
def test_a_machine_that_is_short_of_something_does_not_end_a_channel_that_reads(
    ends: tuple[Channel, Channel], number: int
) -> None:
    left, right = ends
    left.send(ONE)
    receives_fail(right, number)
    assert right.receive() == b""
    assert right.receive() == ONE


def test_a_file_goes_out_once_though_its_record_goes_out_in_pieces(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    small_buffers(left)
    left.send_with(TWO * 2000, spill(b"once"), gives=True)
    assert left.waits is SendWaits.PEER
    got = b""
    while len(got) < 2000 * RECORD_BYTES:
        got += right.receive()
        left.flush()
    assert got == TWO * 2000 and [read_spill(fd, 4) for fd in right.fds] == [b"once"]


def test_a_lent_file_stays_open_whatever_becomes_of_the_channel(ends: tuple[Channel, Channel]) -> None:
    left, _ = ends
    fd = spill(b"mine")
    sends_fail(left, errno.ENOBUFS)
    left.send_with(ONE, fd, gives=False)
    left.close()
    assert read_spill(fd, 4) == b"mine"
    os.close(fd)


def test_an_arena_passed_as_a_file_is_the_same_memory(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    mine = Arena.create(1 << 20)
    left.send_with(ONE, mine.fd, gives=False)
    right.receive()
    theirs = Arena(right.fds.popleft(), 1 << 20)
    theirs.memory[1000:1005] = b"hello"
    assert bytes(mine.memory[1000:1005]) == b"hello"
    os.close(mine.fd)
    os.close(theirs.fd)


def test_a_large_slot_gives_its_pages_back_and_reads_as_zeros_after() -> None:
    slots = Slots(((RETURN_PAGES_FROM, 2),))
    arena = Arena.create(2 * RETURN_PAGES_FROM)
    first, second = slots.claim(RETURN_PAGES_FROM), slots.claim(RETURN_PAGES_FROM)
    assert first is not None and second is not None
    for slot in (first, second):
        arena.memory[slot.offset : slot.offset + 3] = b"abc"
    before = os.fstat(arena.fd).st_blocks
    arena.give_back(first)
    assert os.fstat(arena.fd).st_blocks < before
    assert bytes(arena.memory[first.offset : first.offset + 3]) == b"\0\0\0"
    assert bytes(arena.memory[second.offset : second.offset + 3]) == b"abc"
    os.close(arena.fd)


@pytest.mark.parametrize("size", [0, 1, 4096, (1 << 24) + 5])
def test_a_spilled_answer_is_read_back_whole(size: int) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    fd = spill(data)
    assert read_spill(fd, size) == data
    os.close(fd)
