"""Batch transform and pipelines, on real trees: what the platform sends there, and what it needs back."""

from __future__ import annotations

import contextlib
import io
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.support.tree import Tree, free_port, serving
from tests.support.wire import chunked

LINES = "application/jsonlines"


def handler(to: Path, script: str) -> Path:
    (to / "code").mkdir(parents=True)
    (to / "code" / "inference.py").write_text(script)
    return to


@pytest.mark.contract("12.30")
def test_the_execution_parameters_are_there_in_json_and_only_to_be_read(digits: Tree) -> None:
    with digits.wire() as wire:
        reply = wire.get("/execution-parameters")
        assert reply.status == 200 and reply.headers["content-type"] == "application/json"
        found = reply.json()
        assert found["BatchStrategy"] == "MULTI_RECORD" and found["MaxConcurrentTransforms"] == 2
        assert 1 <= found["MaxPayloadInMB"] <= 6
        assert wire.post(b"[]").status == 400
        refused = wire.ask(b"POST /execution-parameters HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n")
        assert (refused.status, refused.code, refused.headers["allow"]) == (405, "method_not_allowed", "GET, HEAD")


@pytest.mark.contract("12.30")
@pytest.mark.parametrize(("kind", "line"), [("text/csv", b"%d,2.5\n"), (LINES, b"[%d,2.5]\n")])
def test_many_records_come_back_a_line_each_in_their_order_and_end_with_a_newline(tmp_path: Path, kind: str, line: bytes) -> None:
    (tmp_path / "model.toml").write_text(ECHO)
    body = b"".join(line % i for i in range(5000))
    with serving(tmp_path, SAGEMAKER_BATCH="True") as tree, tree.wire() as wire:
        for sent in (body, body.removesuffix(b"\n")):
            reply = wire.post(sent, kind, kind)
            assert reply.status == 200 and reply.body.endswith(b"\n") and reply.body.count(b"\n") == 5000
            numbers = reply.body.replace(b"[", b"").replace(b"]", b"").splitlines()
            assert [float(n.split(b",")[0]) for n in numbers] == list(range(5000))
        pieces = [body[i : i + 1000] for i in range(0, len(body), 1000)]
        assert wire.ask(chunked(pieces, kind, headers=(f"Accept: {kind}",))).body == reply.body


@pytest.mark.contract("12.30")
def test_as_many_requests_as_were_asked_for_of_the_shortest_lines_are_all_answered(tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_text('backend = "echo"\n[[inputs]]\nname = "x"\nshape = ["rows"]\n')
    with serving(tmp_path, SAGEMAKER_BATCH="1") as tree:
        with tree.wire() as wire:
            asked = wire.get("/execution-parameters").json()
        body = b"7\n" * (asked["MaxPayloadInMB"] * 1_000_000 // 2)

        def ask(_: int) -> tuple[int, bool]:
            with tree.wire(120.0) as wire:
                reply = wire.post(body, "text/csv", "text/csv")
                return reply.status, reply.body == b"7.0\n" * (len(body) // 2)

        at_once = asked["MaxConcurrentTransforms"]
        with ThreadPoolExecutor(at_once) as pool:
            assert list(pool.map(ask, range(2 * at_once))) == [(200, True)] * 2 * at_once


@pytest.mark.contract("12.30")
@pytest.mark.parametrize(("batch", "end"), [("TRUE", b"\n"), ("false", b"")])
def test_a_handlers_lines_end_with_a_newline_in_a_batch_job_and_stay_as_they_are_elsewhere(
    tmp_path: Path, batch: str, end: bytes
) -> None:
    script = (
        "def transform_fn(model, body, content_type, accept):\n    return body.strip(), accept\ndef model_fn(d):\n    return 0\n"
    )
    with serving(handler(tmp_path, script), SAGEMAKER_BATCH=batch) as tree, tree.wire() as wire:
        assert wire.post(b"1\n2\n", "text/csv", "text/csv").body == b"1\n2" + end
        assert wire.post(b"1\n2\n", "text/csv", "text/plain").body == b"1\n2", "only what is made of lines"


FIRST = """
import json
def model_fn(model_dir):
    return 1
def transform_fn(model, body, content_type, accept):
    assert content_type == "text/csv", content_type
    rows = [[float(x) for x in line.split(",")] for line in body.splitlines()]
    return json.dumps({"instances": rows}), "application/json"
"""
LAST = """
import json
def model_fn(model_dir):
    return 1
def input_fn(body, content_type):
    assert content_type == "application/json", content_type
    return json.loads(body)["predictions"]
def predict_fn(rows, model):
    return [sum(row) for row in rows]
def output_fn(sums, accept):
    return "".join(f"{s:g}\\n" for s in sums), "text/csv"
"""
ECHO = "backend = 'echo'\n" + "".join(
    f"[[{side}]]\nname = 'x'\ndtype = 'float32'\nshape = ['rows', 2]\n" for side in ("inputs", "outputs")
)


@pytest.mark.contract("12.2")
@pytest.mark.contract("12.29")
def test_three_containers_in_a_chain_each_take_what_the_one_before_has_said(tmp_path: Path) -> None:
    """One host, as in a pipeline: each has its data port, and every sidecar finds a place in the range by itself."""
    low = free_port()
    middle = tmp_path / "middle"
    middle.mkdir()
    (middle / "model.toml").write_text(ECHO)
    folders = [handler(tmp_path / "first", FIRST), middle, handler(tmp_path / "last", LAST)]
    high = min(low + 200, 65535)
    trees = [Tree(f, EVENKEEL_SIDECAR_ADDRESS="127.0.0.1:0", SAGEMAKER_SAFE_PORT_RANGE=f"{low}-{high}") for f in folders]
    for tree in trees:
        tree.wait_ready()
    body, kind = b"1,2\n3,4\n", "text/csv"
    for tree in trees:
        with tree.wire() as wire:
            reply = wire.post(body, kind)
        assert reply.status == 200, reply.raw
        body, kind = reply.body, reply.headers["content-type"]
    assert (body, kind) == (b"3\n7\n", "text/csv")
    sides = [port for tree in trees for port in listening(tree) if port != tree.port]
    assert len(set(sides)) == 3 and all(low <= port <= high for port in sides), sides
    assert sorted(f"on 127.0.0.1:{port}," for port in sides) == sorted(
        word for tree in trees for word in [tree.events("sidecar_port")[0]["message"].partition("listens ")[2].split(" the")[0]]
    )
    for tree in trees:
        tree.side = next(port for port in listening(tree) if port != tree.port)
        tree.stop()


def listening(tree: Tree) -> set[int]:
    """Every TCP port on which a process of the tree listens."""
    inodes = set()
    for pid in tree.pids():
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                name = str(fd.readlink())
            except OSError:
                continue
            if name.startswith("socket:["):
                inodes.add(name[8:-1])
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(f[1].split(":")[1], 16) for f in lines if f[3] == "0A" and f[9] in inodes}


@pytest.mark.contract("12.29")
def test_a_sidecar_that_finds_no_free_port_in_the_range_stops_the_start_with_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken, socket.socket() as beside:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with contextlib.suppress(OSError):  # somebody else has it: all the same
            beside.bind(("127.0.0.1", port + 1))
            beside.listen()
        tree = Tree("echo", EVENKEEL_SIDECAR_ADDRESS="127.0.0.1:0", SAGEMAKER_SAFE_PORT_RANGE=f"{port}-{port + 1}")
        assert tree.process.wait(30) != 0
        assert f"no port of SAGEMAKER_SAFE_PORT_RANGE={port}-{port + 1} is free" in tree.story()


@pytest.mark.contract("12.6")
@pytest.mark.parametrize("mib", [6, 25])
def test_bodies_of_6_and_25_mib_go_both_ways(echo: Tree, mib: int) -> None:
    """To the bit, with a length and in chunks, and every answer has a length."""
    rows = np.random.default_rng(mib).random((mib * 1024 * 1024 // 4 // 8, 8), np.float32)
    held = io.BytesIO()
    np.save(held, rows)
    body = held.getvalue()
    with echo.wire() as wire:
        assert wire.post(body, "application/x-npy").body == body
        pieces = [body[i : i + 65_000] for i in range(0, len(body), 65_000)]
        reply = wire.ask(chunked(pieces, "application/x-npy"))
    assert reply.body == body and reply.headers["content-length"] == str(len(body))
