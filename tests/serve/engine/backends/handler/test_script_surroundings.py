"""What a script finds around it: what AWS's worker would give it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest
from model_folder import Folder

from evenkeel.serve.contract.library_lines import LibraryHandler
from evenkeel.serve.contract.log_stream import LogStream
from evenkeel.serve.engine.backends.base import LoadOptions, RawReply, RawRequest
from evenkeel.serve.engine.backends.handler.handler_backend import HandlerBackend, load
from tests.support.log_read import logged

ALONE = LoadOptions(threads=1, own_process=True)


@pytest.fixture(autouse=True)
def _process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process is that of other tests, too: it gets everything back."""
    monkeypatch.chdir(".")
    monkeypatch.setattr(sys, "argv", ["-m", "4711", '{"place": 0}'])
    monkeypatch.setattr(sys, "path", list(sys.path))
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    yield
    root.handlers = kept
    root.setLevel(level)
    sys.modules.pop("inference", None)


def started(folder: Folder, script: str) -> HandlerBackend:
    """pytest puts its handlers on the root logger anew for each phase of a test, so they go here."""
    logging.getLogger().handlers = []
    folder.put("code/inference.py", script + "\ndef input_fn(body, content_type): return body\n")
    return load(folder.manifest(), ALONE)


def answer(backend: HandlerBackend) -> str:
    (reply,) = backend.handle([RawRequest(b"x", "application/octet-stream", "*/*", "id-1")])
    assert isinstance(reply, RawReply), repr(reply)
    return reply.body.decode()


def test_the_model_folder_is_the_working_directory(folder: Folder) -> None:
    folder.put("weights.txt", "hello")
    backend = started(folder, "def model_fn(d): return open('weights.txt').read()\ndef predict_fn(x, m): return m\n"
                              "def output_fn(p, a): return p")  # fmt: skip
    assert answer(backend) == "hello"


def test_a_script_that_parses_arguments_at_import_meets_none_of_ours(folder: Folder) -> None:
    backend = started(folder, "import argparse, sys\nargparse.ArgumentParser().parse_args()\ndef model_fn(d): return sys.argv\n"
                              "def predict_fn(x, m): return m[0]\ndef output_fn(p, a): return p")  # fmt: skip
    assert answer(backend).endswith("code/inference.py")


LOGS = """
import logging
logger = logging.getLogger(__name__)
logging.basicConfig(level=logging.CRITICAL, format="never %(message)s")
def model_fn(d):
    logger.info("loaded %s", "it")
    return 1
def predict_fn(x, m):
    logger.debug("unseen")
    logger.error("went wrong")
    try:
        1 / 0
    except ZeroDivisionError:
        logger.exception("with a trace")
    return x
def output_fn(p, a): return p
"""


def test_what_a_script_logs_is_seen_with_its_level(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", LogStream("stdout"))
    answer(started(folder, LOGS))
    events = [json.loads(line) for line in logged(capfd).splitlines()]
    told = [(e["message"], e["level"], e["logger"]) for e in events if e["event"] == "user_log"]
    assert told == [("loaded it", "info", "inference"), ("went wrong", "error", "inference"),
                    ("with a trace", "error", "inference")]  # fmt: skip
    assert "ZeroDivisionError" in events[-1]["trace"]


def test_without_a_log_of_ours_it_is_printed(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    answer(started(folder, LOGS))
    assert capsys.readouterr().out.startswith("loaded it\nwent wrong\nwith a trace\n")


def test_beside_others_in_a_process_nothing_is_changed(folder: Folder) -> None:
    folder.put("code/inference.py", "import sys, os\ndef model_fn(d): return os.getcwd() + str(sys.argv)\n"
                                    "def predict_fn(x, m): return m\ndef input_fn(b, c): return b")  # fmt: skip
    backend = load(folder.manifest(), LoadOptions(threads=1))
    assert "4711" in answer(backend) and str(folder.path) not in answer(backend)
    assert not any(type(handler) in (LibraryHandler, logging.StreamHandler) for handler in logging.getLogger().handlers)
