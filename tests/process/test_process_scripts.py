"""Scripts as users of the AWS containers write them, on real trees: what reaches them, and what they may need at start."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.support.tree import Tree, eventually, serving

# Every header of the platform's API that may come with a request (§2.1), in the spelling of some client.
SENT = {
    "X-Amzn-SageMaker-Custom-Attributes": "tenant=7; trace=a b", "x-amzn-sagemaker-inference-id": "inference-4711",
    "X-AMZN-SAGEMAKER-TARGET-MODEL": "m.tar.gz", "X-Amzn-SageMaker-Target-Variant": "blue",
    "X-Amzn-SageMaker-Target-Container-Hostname": "first", "X-Amzn-SageMaker-Inference-Component": "ic-1",
    "X-Amzn-SageMaker-Session-Id": "s-1", "X-Amzn-SageMaker-Prefix-Aware-Id": "p-1",
    "X-Amzn-SageMaker-Enable-Explanations": "`true`", "X-Amzn-SageMaker-Forwarded-Api": "InvokeEndpoint",
    "X-Amzn-SageMaker-Accept": "application/json", "X-Amzn-SageMaker-Adapter-Identifier": "lora",
}  # fmt: skip
ASKS = """
import json

def model_fn(model_dir, context):
    return context.system_properties["model_dir"]

def input_fn(body, content_type, context):
    if "raise" in body:
        raise ValueError("as told")
    return json.loads(body)

def predict_fn(data, model, context=None):
    found = {name: context.get_request_header(0, name) for name in data}
    return {"asked": found, "id": context.get_request_id(), "all": sorted(context.get_all_request_header(0)), "dir": model}

def output_fn(prediction, accept, context):
    filling = "x" * 2000 if "long" in prediction["asked"] else ""
    context.set_response_header(0, "X-Amzn-SageMaker-Custom-Attributes", "answered=" + filling)
    context.set_response_header(0, "X-Else", "dropped")
    return json.dumps(prediction)
"""


def folder(to: Path, script: str, name: str = "code/inference.py") -> Path:
    (to / name).parent.mkdir(parents=True, exist_ok=True)
    (to / name).write_text(script)
    return to


AT_HOME = """
import argparse, codecs, io, logging, sys
argparse.ArgumentParser().parse_args()
sys.stdout.reconfigure(line_buffering=True)
sys.stderr = io.TextIOWrapper(sys.stderr.buffer, line_buffering=True)
logger = logging.getLogger(__name__)

def model_fn(model_dir):
    logger.info("info of the script")
    print("printed to stderr", file=sys.stderr)
    return open("weights.txt").read()

def input_fn(body, content_type):
    return body

def predict_fn(data, model):
    return model
"""


def test_a_script_finds_around_it_what_an_aws_worker_gives_it(tmp_path: Path) -> None:
    (tmp_path / "weights.txt").write_text("hello")
    with serving(folder(tmp_path, AT_HOME)) as tree:
        with tree.wire() as wire:
            assert wire.post(b"x", "text/plain").json() == "hello"
        (logged,), (printed,) = tree.events("user_log"), tree.events("user_output")
        assert (logged["message"], logged["level"]) == ("info of the script", "info")
        assert printed["message"] == "printed to stderr"


@pytest.mark.contract("12.19")
@pytest.mark.contract("12.20")
@pytest.mark.contract("12.22")
def test_every_header_of_the_api_reaches_a_handler_that_asks_and_its_attributes_come_back(tmp_path: Path) -> None:
    with serving(folder(tmp_path, ASKS)) as tree, tree.wire() as wire:
        lines = [f"{name}: {value}" for name, value in SENT.items()]
        reply = wire.post(json.dumps(list(SENT)).encode(), "application/json", None, *lines, "X-Unknown: ignored")
        assert reply.status == 200, reply.raw
        found = reply.json()
        assert found["asked"] == SENT
        assert (found["id"], found["dir"]) == ("inference-4711", str(tmp_path))
        assert reply.headers["x-amzn-sagemaker-custom-attributes"] == "answered=" and "x-else" not in reply.headers
        assert reply.headers["content-length"] == str(len(reply.body))
        assert len(reply.raw) - len(reply.body) < 4096

        assert wire.post(b'"raise"', "application/json", None, "X-Amzn-SageMaker-Inference-Id: seen-in-logs").status == 500
        logged = eventually(lambda: tree.events("handler_error"), "it is logged")
        assert logged[0]["request_id"] == "seen-in-logs"

        long = wire.post(b'["long"]')
        assert (long.status, long.code) == (500, "model_error") and "at most 1024" in long.message


PLAIN = """
import json

def model_fn(model_dir):
    return None

def transform_fn(model, body, content_type, accept):
    return json.dumps({"said": WORD}), "application/json"
"""


@pytest.mark.parametrize(
    ("variable", "value", "where"),
    [("SAGEMAKER_PROGRAM", "entry.py", "code/entry.py"), ("CUSTOM_SCRIPT_FILENAME", "model.py", "model.py")],
)
def test_a_script_of_another_name_is_found_where_the_toolkits_look(tmp_path: Path, variable: str, value: str, where: str) -> None:
    script = PLAIN.replace("WORD", '"named"')
    with serving(folder(tmp_path, script, where), **{variable: value}) as tree, tree.wire() as wire:
        assert wire.post(b"{}").json() == {"said": "named"}


@pytest.mark.parametrize("value", ["../evil.py", "/etc/passwd", "script.sh"])
def test_a_script_outside_of_the_model_folder_stops_the_start(tmp_path: Path, value: str) -> None:
    tree = Tree(folder(tmp_path, PLAIN), SAGEMAKER_PROGRAM=value)
    assert tree.process.wait(30) == 1
    assert "SAGEMAKER_PROGRAM" in tree.story() and "must be the name of a Python file" in tree.story()


STATUSES = """
class UnsupportedFormat(Exception):
    def __init__(self, status, text):
        super().__init__(text)
        self.status_code = status

def model_fn(model_dir):
    return None

def transform_fn(model, body, content_type, accept):
    if body == "201":
        return {"made": 1}, 201
    raise UnsupportedFormat(int(body), "not like this")
"""


def test_an_exception_with_a_status_refuses_the_request_with_it(tmp_path: Path) -> None:
    with serving(folder(tmp_path, STATUSES)) as tree, tree.wire() as wire:
        for status, code, retry in (
            (415, "unsupported_media_type", None),
            (406, "not_acceptable", None),
            (413, "body_too_large", None),
            (404, "bad_request", None),
            (422, "bad_request", None),
            (429, "model_error", "1"),
            (500, "model_error", None),
            (503, "model_error", "1"),
        ):
            reply = wire.post(str(status).encode())
            assert (reply.status, reply.code, reply.message) == (status, code, "not like this")
            assert reply.headers.get("retry-after") == retry
        good = wire.post(b"201")
        assert (good.status, good.json()) == (201, {"made": 1})


# requirements.txt at start --------------------------------------------------------------------------------------------


def wheel(to: Path) -> Path:
    """A package of one line, so that pip needs no network."""
    path = to / "ekword-1.0-py3-none-any.whl"
    info = "ekword-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ekword.py", "WORD = 'installed'\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: ekword\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"ekword.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def needing(to: Path, requirements: str) -> Path:
    made = folder(to / "model", "import ekword\n" + PLAIN.replace("WORD", "ekword.WORD"))
    (made / "code" / "requirements.txt").write_text(requirements)
    return made


def test_requirements_are_installed_at_start_when_that_is_asked_for_and_leave_nothing_behind(tmp_path: Path) -> None:
    model = needing(tmp_path, f"--no-index\nnumpy\n{wheel(tmp_path)}\n")
    with serving(model, EVENKEEL_INSTALL_REQUIREMENTS="1") as tree, tree.wire() as wire:
        assert wire.post(b"{}").json() == {"said": "installed"}
        assert "seconds" in tree.events("installed")[0]


def test_requirements_are_not_installed_unasked_and_the_missing_module_says_what_to_do(tmp_path: Path) -> None:
    tree = Tree(needing(tmp_path, f"--no-index\n{wheel(tmp_path)}\n"))
    assert tree.process.wait(60) == 1
    assert "EVENKEEL_INSTALL_REQUIREMENTS=1" in tree.events("bad_model")[0]["message"]
    (told,) = tree.events("requirements_not_installed")
    assert (told["level"], "code/requirements.txt is not installed" in told["message"]) == ("info", True)


@pytest.mark.parametrize(
    ("line", "said"),
    [("no-such-package-of-anybody==1", "no-such-package-of-anybody"), ("numpy==1.0", "numpy")],
    ids=["missing", "contradicts the image"],
)
def test_requirements_that_cannot_be_installed_stop_the_start_with_what_pip_said(tmp_path: Path, line: str, said: str) -> None:
    tree = Tree(needing(tmp_path, f"--no-index\n{line}\n"), EVENKEEL_INSTALL_REQUIREMENTS="1")
    assert tree.process.wait(60) == 1
    last = json.loads(tree.err.read_text().strip().splitlines()[-1])
    assert last["message"].startswith("code/requirements.txt cannot be installed:") and tree.events("not_installed")
    assert said in json.dumps(tree.events("not_installed")[0]["pip"])
    tree.assert_nothing_left()


def test_an_installation_that_takes_too_long_stops_the_start(tmp_path: Path) -> None:
    tree = Tree(
        needing(tmp_path, f"--no-index\n{wheel(tmp_path)}\n"), EVENKEEL_INSTALL_REQUIREMENTS="1", EVENKEEL_INSTALL_TIMEOUT_S="0.1"
    )
    assert tree.process.wait(60) == 1
    assert "EVENKEEL_INSTALL_TIMEOUT_S" in tree.err.read_text()
    tree.assert_nothing_left()
