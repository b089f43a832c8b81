"""Which container a command speaks to: by what runs here, and by what was asked for."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from evenkeel.container import environment, run_record
from evenkeel.container.commands import container_choice, judge_command, running_containers
from evenkeel.container.commands.command_line import main
from evenkeel.container.commands.container_choice import HERE, ContainerChoice
from evenkeel.container.commands.sidecar_client import CommandFailed
from evenkeel.container.run_record import RunRecord


@contextlib.contextmanager
def running(folder: Path, *ports: int) -> Iterator[list[Path]]:
    """Run directories of containers on these ports, each with a socket that answers."""
    with contextlib.ExitStack() as stack:
        found = []
        for port in ports:
            run_dir = folder / f"evenkeel-{port}"
            run_dir.mkdir()
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.bind(str(run_dir / "admin.sock"))
            sock.listen()
            RunRecord(pid=port + 1, port=port, page=f"http://127.0.0.1:{port + 2}", model_dir=f"/models/{port}").write(run_dir)
            found.append(run_dir / "admin.sock")
        yield found


def chosen(folder: Path, port: int | None = None) -> Path:
    env = environment.read({"EVENKEEL_RUN_DIR": str(folder)})
    return running_containers.only(running_containers.find(env), port, env).socket


def test_where_none_runs_it_is_said_where_was_looked_and_how_to_start_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drain"], {"EVENKEEL_RUN_DIR": str(tmp_path)}) == 1
    said = capsys.readouterr().err
    assert said.startswith("evenkeel: no container of yours runs here") and said.count("\n") == 1
    assert str(tmp_path) in said and "evenkeel serve FOLDER" in said


def test_the_one_that_runs_is_taken(tmp_path: Path) -> None:
    with running(tmp_path, 8080) as sockets:
        assert chosen(tmp_path) == sockets[0]


@pytest.mark.parametrize("command", [["drain"], ["status"], ["use", "2"], ["judge", "--candidate", "other:1"]])
def test_several_are_shown_in_a_table_and_a_port_is_asked_for(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(tmp_path, 8080, 9000) as sockets:
        assert main(command, {"EVENKEEL_RUN_DIR": str(tmp_path)}) == (3 if command[0] == "judge" else 1)
    first, head, *rows = capsys.readouterr().err.splitlines()
    assert "2 containers run here" in first and "--port" in first
    assert head.split() == ["port", "pid", "page", "model", "socket"]
    assert [row.split() for row in rows] == [
        ["8080", "8081", "http://127.0.0.1:8082", "/models/8080", str(sockets[0])],
        ["9000", "9001", "http://127.0.0.1:9002", "/models/9000", str(sockets[1])],
    ]


def test_a_port_chooses_one_of_several(tmp_path: Path) -> None:
    with running(tmp_path, 8080, 9000) as sockets:
        assert chosen(tmp_path, 9000) == sockets[1]
        with pytest.raises(CommandFailed, match=r"no container of yours has port 1234.*\n.*port"):
            chosen(tmp_path, 1234)


def test_a_container_is_called_by_its_port_page_and_model_and_not_by_its_socket(tmp_path: Path) -> None:
    env = environment.read({"EVENKEEL_RUN_DIR": str(tmp_path)})
    with running(tmp_path, 8080):
        called = container_choice.address(HERE, env).where
    assert called == "port 8080, page http://127.0.0.1:8082, model /models/8080"


def test_a_port_alone_is_the_page_of_this_machine() -> None:
    assert container_choice.address(ContainerChoice(url="9262"), environment.read({})).where == "127.0.0.1:9262"


def test_a_socket_that_nobody_listens_on_is_left_over(tmp_path: Path) -> None:
    with running(tmp_path, 8080):
        pass
    env = environment.read({"EVENKEEL_RUN_DIR": str(tmp_path)})
    assert running_containers.find(env) == []


@pytest.mark.parametrize("text", [None, "", "{", "[1]", '{"pid": 1}', '{"pid": 1, "port": "x", "page": "", "model_dir": ""}'])
def test_a_container_without_a_record_is_found_too(text: str | None, tmp_path: Path) -> None:
    with running(tmp_path, 8080) as sockets:
        record = sockets[0].with_name(run_record.RECORD)
        record.unlink() if text is None else record.write_text(text)
        assert chosen(tmp_path) == sockets[0]
        env = environment.read({"EVENKEEL_RUN_DIR": str(tmp_path)})
        assert "?" in running_containers.table(running_containers.find(env))


# ---- the judge ---------------------------------------------------------------------------------------------------------


def completed(folder: Path, *words: str) -> list[str]:
    return judge_command.completed(words, environment.read({"EVENKEEL_RUN_DIR": str(folder)}))


def test_a_candidate_is_judged_against_the_one_that_runs_here(tmp_path: Path) -> None:
    with running(tmp_path, 8080):
        words = ["--candidate", "other:8080", "--json"]
        assert completed(tmp_path, *words[:1], "other:81") == ["--candidate", "other:81", "--production", "127.0.0.1:8080"]


def test_a_candidate_on_this_machine_is_not_its_own_baseline(tmp_path: Path) -> None:
    with running(tmp_path, 8080, 9000):
        assert completed(tmp_path, "--candidate", "localhost:9000")[-2:] == ["--production", "127.0.0.1:8080"]


@pytest.mark.parametrize("port", [["--port", "9001"], ["--port=9001"]])
def test_a_port_names_the_container_that_serves_now(port: list[str], tmp_path: Path) -> None:
    with running(tmp_path, 8080, 9000, 9001):
        words = completed(tmp_path, "--candidate", "localhost:9000", *port, "--json")
    assert words == ["--candidate", "localhost:9000", "--json", "--production", "127.0.0.1:9001"]


@pytest.mark.parametrize("words", [["--help"], ["--replay", "x.jsonl"], ["--candidate", "a:1", "--baseline=b:1"], []])
def test_words_that_need_no_container_go_to_the_judge_as_they_are(words: list[str], tmp_path: Path) -> None:
    assert completed(tmp_path, *words) == words
