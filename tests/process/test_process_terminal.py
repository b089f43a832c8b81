"""`evenkeel serve` on a terminal, as somebody meets it who types it for the first time."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tree import ARTIFACTS, EVENKEEL, Tree, clean_environment, ending_with_us, eventually, run_command


class Terminal:
    """A command on a terminal of its own: what it shows, and what is typed."""

    def __init__(self, *words: str, **settings: str) -> None:
        self._fd, theirs = pty.openpty()
        os.set_blocking(self._fd, False)
        bind_to_us = ending_with_us()

        def begin() -> None:
            os.login_tty(theirs)
            if bind_to_us is not None:
                bind_to_us()

        environ = {**clean_environment(settings), "TERM": "xterm", "COLUMNS": "100"}
        self.process = subprocess.Popen([str(EVENKEEL), *words], env=environ, preexec_fn=begin, close_fds=False)
        os.close(theirs)
        self._text = ""

    def text(self) -> str:
        """All that was shown, without colours."""
        try:
            while data := os.read(self._fd, 65536):
                self._text += data.decode()
        except OSError:  # nothing more for now, or for ever
            pass
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self._text).replace("\r\n", "\n")

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._fd)


@pytest.fixture
def terminal(short_path: Path) -> Iterator[Terminal]:
    made = Terminal("serve", str(ARTIFACTS / "digits"), "--port", "0", "--page", "0", "--set", f"run_dir={short_path}",
                    "--set", "host=127.0.0.1")  # fmt: skip
    yield made
    made.close()


def test_a_newcomer_sees_one_line_then_a_card_whose_request_works_as_pasted(terminal: Terminal, short_path: Path) -> None:
    eventually(lambda: "stop  Ctrl-C" in terminal.text(), "the card", 90)
    shown = terminal.text()
    assert "warming up: " in shown and '"event"' not in shown, shown
    assert re.search(r"✓ digits 1 · onnx · \d+ golden and \d+ batch checks passed · ready in \d+\.\d s\n", shown), shown
    line, gives = re.findall(r"  (?:ask  |gives) (.*)\n", shown)
    answer = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=30, check=True).stdout
    assert answer.startswith(gives.rstrip("…")[:20]) and "predictions" in answer
    assert run_command("status", EVENKEEL_RUN_DIR=str(short_path)).returncode == 0, "the one that runs is found"
    terminal.type("\x03")
    eventually(lambda: terminal.process.poll() is not None, "Ctrl-C ends it")
    assert terminal.process.returncode == 0
    assert "Traceback" not in terminal.text() and "every process has ended" in terminal.text()


def test_a_model_that_cannot_be_served_is_told_on_the_terminal(tmp_path: Path) -> None:
    terminal = Terminal("serve", str(tmp_path / "nowhere"), "--port", "0", "--page", "0", "--set", "host=127.0.0.1")
    try:
        eventually(lambda: terminal.process.poll() is not None, "it ends")
        assert terminal.process.returncode == 1
        assert f"model folder {tmp_path / 'nowhere'} does not exist" in terminal.text() and "Traceback" not in terminal.text()
    finally:
        terminal.close()


def test_beside_a_log_of_text_lines_the_card_is_shown_too() -> None:
    tree = Tree("digits", EVENKEEL_LOG="text").wait_ready()
    try:
        eventually(lambda: "stop  Ctrl-C" in tree.out.read_text(), "the card")
        assert "\x1b" not in tree.out.read_text() and f"curl -s localhost:{tree.port}/invocations" in tree.out.read_text()
        tree.stop()
    finally:
        tree.kill()
