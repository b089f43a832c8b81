"""The way out of log lines: whatever the log is, a reader that stops costs lines and nothing else."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import socket
import stat
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evenkeel.serve.contract import log_sink
from evenkeel.serve.contract.log_sink import DescriptorWriter, QueueWriter, Sink, SocketWriter
from tests.support.tree import eventually

LINE = b"x" * 999 + b"\n"
FLOOD = 3000  # lines, more than any pipe, socket or queue holds


def tell(lines: int) -> bytes:
    return f"{lines} lost\n".encode()


class Log:
    """A log of one kind: what a process writes to, and what its reader takes."""

    def __init__(self, write_fd: int, read_fd: int) -> None:
        self.write_fd, self.read_fd = write_fd, read_fd
        os.set_blocking(read_fd, False)

    def read(self) -> bytes:
        """Everything that is there now."""
        data = b""
        while select.select([self.read_fd], [], [], 0.05)[0]:
            data += os.read(self.read_fd, 1 << 20)
        return data


def a_pipe() -> Log:
    read_fd, write_fd = os.pipe()
    return Log(write_fd, read_fd)


def a_socket() -> Log:
    ours, theirs = socket.socketpair()
    return Log(ours.detach(), theirs.detach())


def a_terminal() -> Log:
    master, slave = pty.openpty()
    modes = termios.tcgetattr(slave)
    modes[1] &= ~termios.OPOST  # line ends as they are
    termios.tcsetattr(slave, termios.TCSANOW, modes)
    return Log(slave, master)


@pytest.fixture(params=[a_pipe, a_socket, a_terminal, "foreign"], ids=["pipe", "socket", "terminal", "pipe of another user"])
def log(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    if request.param == "foreign":
        monkeypatch.setattr(log_sink, "open_again", refused)
    made: Log = a_pipe() if request.param == "foreign" else request.param()
    yield made
    made.read()  # a thread that waits for us ends its line
    os.close(made.read_fd)
    os.close(made.write_fd)


def refused(fd: int) -> int:
    raise PermissionError(fd)


def test_a_reader_that_stops_costs_lines_which_are_counted_and_told_when_it_is_back(log: Log) -> None:
    out = Sink(log.write_fd, tell)
    for _ in range(FLOOD):
        out.write(LINE)
    assert 0 < out.lost < FLOOD

    found: list[bytes] = []

    def all_told() -> bool:
        found.append(log.read())
        out.tell_lost()
        told = [line for line in b"".join(found).splitlines() if line.endswith(b"lost")]
        return sum(int(line.split()[0]) for line in told) == out.lost

    eventually(all_told, "the loss is told")
    lines = b"".join(found).splitlines(keepends=True)
    assert lines.count(LINE) + out.lost == FLOOD
    assert all(line == LINE or line.endswith(b" lost\n") for line in lines), "every line is whole"
    out.write(b"the next\n")
    assert eventually(log.read, "the next line comes") == b"the next\n"


def test_the_open_file_that_others_share_goes_on_blocking(log: Log) -> None:
    other = os.dup(log.write_fd)
    out = Sink(log.write_fd, tell)
    out.write(LINE)
    assert os.get_blocking(other) and os.get_blocking(log.write_fd)
    assert not fcntl.fcntl(other, fcntl.F_GETFL) & os.O_NONBLOCK
    out.flush()
    os.close(other)


def test_a_process_that_is_handed_the_log_does_not_wait_either(log: Log) -> None:
    first = Sink(log.write_fd, tell)
    assert first.fd not in (log.write_fd, 0, 1, 2)
    second = Sink(first.fd, tell)
    for _ in range(FLOOD):
        second.write(LINE)
    assert second.lost and not first.lost


def test_a_child_after_a_fork_writes_by_itself(log: Log) -> None:
    out = Sink(log.write_fd, tell)
    out.write(b"parent\n")
    out.flush()
    pid = os.fork()
    if pid == 0:
        out.write(b"child\n")
        out.flush()
        os._exit(out.lost)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert log.read() == b"parent\nchild\n"


@pytest.mark.parametrize("make", [a_pipe, a_socket], ids=["pipe", "socket"])
def test_a_reader_that_is_gone_costs_lines(make: Callable[[], Log]) -> None:
    log = make()
    out = Sink(log.write_fd, tell)
    os.close(log.read_fd)
    for _ in range(3):
        out.write(LINE)
    assert out.lost == 3
    os.close(log.write_fd)


def test_a_file_has_every_line_in_order(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        out = Sink(file.fileno(), tell)
        for i in range(500):
            out.write(b"%d\n" % i)
        out.flush()
    assert (tmp_path / "log").read_bytes() == b"".join(b"%d\n" % i for i in range(500)) and out.lost == 0


def test_a_full_disk_costs_lines() -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        out = Sink(full.fileno(), tell)
        out.write(LINE)
        assert out.lost == 1


def test_a_closed_descriptor_costs_lines_and_what_is_opened_there_later_gets_none(tmp_path: Path) -> None:
    closed = os.dup(0)
    os.close(closed)
    out = Sink(closed, tell)
    data = os.open(tmp_path / "data", os.O_CREAT | os.O_WRONLY)
    assert data == closed, "the lowest number that is free"
    out.write(LINE)
    os.close(data)
    assert out.lost == 1 and (tmp_path / "data").read_bytes() == b""


def test_a_disk_that_does_not_answer_keeps_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered, write = threading.Event(), os.write

    def stalled(fd: int, data: bytes) -> int:
        answered.wait()
        return write(fd, data)

    with (tmp_path / "log").open("wb") as file:
        monkeypatch.setattr(os, "write", stalled)
        out = Sink(file.fileno(), tell)
        for _ in range(FLOOD):
            out.write(LINE)
        out.flush(0.01)
        assert out.lost > 0
        answered.set()
        eventually(lambda: tell(out.lost) in (tmp_path / "log").read_bytes(), "the loss is told as soon as it answers")


def test_each_kind_gets_the_writer_that_fits_it(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file, open(os.devnull, "wb") as null:
        kinds = {a_pipe().write_fd: DescriptorWriter, a_socket().write_fd: SocketWriter, a_terminal().write_fd: DescriptorWriter,
                 null.fileno(): DescriptorWriter, file.fileno(): QueueWriter}  # fmt: skip
        assert {fd: type(Sink(fd, tell)._writer) for fd in kinds} == kinds


def test_losses_are_counted_in_a_cell_that_goes_on() -> None:
    cells = memoryview(bytearray(16)).cast("Q")
    cells[1] = 5  # of the process before
    out = Sink(-1, tell)
    out.write(LINE)
    out.count_in(cells, 1)
    out.write(LINE)
    out.count(10)
    assert cells[1] == 5 + 2 + 10 and out.lost == 12


@pytest.mark.skipif(os.getuid() != 0, reason="only root can hand a pipe to another user")
def test_a_pipe_of_another_user_is_written_by_a_thread() -> None:
    log = a_pipe()
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        out = Sink(log.write_fd, tell)
        for _ in range(FLOOD):
            out.write(LINE)
        out.flush(0.01)
        os._exit(42 if isinstance(out._writer, QueueWriter) and out.lost else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42


def test_a_pipe_is_opened_again_and_not_changed() -> None:
    log = a_pipe()
    own = log_sink.open_again(log.write_fd)
    assert stat.S_ISFIFO(os.fstat(own).st_mode) and not os.get_blocking(own) and os.get_blocking(log.write_fd)
    os.write(own, b"through the same pipe")
    assert log.read() == b"through the same pipe"
