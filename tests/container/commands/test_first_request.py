"""The request that is shown on the terminal: it is asked first, and what is shown is what was asked."""

from __future__ import annotations

import http.server
import json
import shlex
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from evenkeel.container.commands import first_request
from evenkeel.container.commands.first_request import FirstAnswer, FirstRequest
from tests.support.tree import ARTIFACTS

GOOD = FirstAnswer(200, "application/json", b'{"predictions": [1]}')


def test_the_smallest_json_sample_is_taken_and_pasted() -> None:
    request = first_request.of_samples(ARTIFACTS / "digits")
    assert request is not None and request.file is None
    words = shlex.split(first_request.curl("localhost:8080", request, GOOD))
    assert words[:3] == ["curl", "-s", "localhost:8080/invocations"]
    assert words[words.index("-d") + 1].encode() == request.body and "Content-Type: application/json" in words


@pytest.mark.parametrize("body", [b"\x93NUMPY\x01\x00", b'{"instances": ["it\'s"]}', b"[" + b"0," * 600 + b"0]"])
def test_a_sample_that_no_person_would_paste_is_named_by_its_file(body: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "a model"
    folder.mkdir()
    shutil.copy(ARTIFACTS / "digits" / "model.onnx", folder)
    (folder / "one.bin").write_bytes(body)
    (folder / "model.toml").write_text('[[samples]]\ninput = "one.bin"\ncontent_type = "application/x-npy"\n')
    request = first_request.of_samples(folder)
    assert request is not None and request.body == body
    words = shlex.split(first_request.curl("localhost:8080", request, GOOD))
    assert words[words.index("--data-binary") + 1] == f"@{folder / 'one.bin'}"


@pytest.mark.parametrize("inputs, body", [
    (["x: float32[rows, 2, 1]"], {"instances": [[[0], [0]]]}),
    (["x: float32[rows]"], {"instances": [0]}),
    (["x: float32[rows, n]"], {"instances": [[0]]}),
    (["a: int64[rows, 2]", "b: bool[rows, 1]"], {"instances": [{"a": [0, 0], "b": [False]}]}),
    (["x: float32[1, 2]"], {"inputs": {"x": [[0, 0]]}}),
    (["name: with, all: float32[rows, 1]"], {"instances": [[0]]}),
])  # fmt: skip
def test_without_a_sample_zeros_are_asked_that_fit_the_inputs(inputs: list[str], body: Any, tmp_path: Path) -> None:
    request = first_request.of_inputs(inputs, tmp_path)
    assert request is not None and json.loads(request.body) == body and request.file is None


def test_large_zeros_lie_in_a_file_beside_the_socket(tmp_path: Path) -> None:
    request = first_request.of_inputs(["x: float32[rows, 3, 224, 224]"], tmp_path)
    assert request is not None and request.file is not None and request.file.read_bytes() == request.body
    assert f"@{request.file}" in first_request.curl("localhost:8080", request, GOOD)


@pytest.mark.parametrize("inputs", [[], ["raw body"], ["x: float32[rows, 100000, 100000]"]])
def test_where_nothing_can_be_made_up_nothing_is_asked(inputs: list[str], tmp_path: Path) -> None:
    assert first_request.of_inputs(inputs, tmp_path) is None


def test_an_answer_that_is_no_text_goes_to_a_file() -> None:
    answer = FirstAnswer(200, "application/x-npy", b"\x93NUMPY")
    assert first_request.curl("h:1", FirstRequest("text/csv", b"1,2", None), answer).endswith(" -o answer")
    assert answer.shown == "6 bytes of application/x-npy"


def test_a_long_answer_is_shortened_to_one_line() -> None:
    shown = FirstAnswer(200, "application/json", b"[1,\n" * 500).shown
    assert len(shown) == first_request.ANSWER_CHARS_MAX + 1 and shown.endswith("…") and "\n" not in shown


def test_what_is_asked_is_what_the_line_says() -> None:
    asked: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, self.headers["Content-Type"], body))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *unused: Any) -> None: ...

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        answer = first_request.ask(f"127.0.0.1:{server.server_port}", FirstRequest("text/csv", b"1,2", None))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert asked == [("/invocations", "text/csv", b"1,2")] and answer == FirstAnswer(200, "application/json", b"{}")
