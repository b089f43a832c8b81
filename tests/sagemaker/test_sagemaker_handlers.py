"""A user's script and a batch job, in the container as in the process tree: headers, streams, lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Start
from tests.sagemaker.box import wire
from tests.sagemaker.platform import ask
from tests.support import digits_model as model
from tests.support.tree import eventually
from tests.support.wire import Closed

LINES = "application/jsonlines"
SCRIPT = """
import json

def model_fn(model_dir):
    return 0

def transform_fn(model, body, content_type, accept, context):
    if content_type == "application/jsonlines":
        return parts(json.loads(body)), content_type
    context.set_response_header(0, "X-Amzn-SageMaker-Custom-Attributes", "seen=" + context.get_request_id())
    return json.dumps(context.get_all_request_header(0)), "application/json"

def parts(told):
    for n in range(told["parts"]):
        yield json.dumps({"n": n}) + "\\n"
    if told["breaks"]:
        raise RuntimeError("half way")
"""


def script_folder(to: Path) -> Path:
    (to / "code").mkdir(parents=True)
    (to / "code" / "inference.py").write_text(SCRIPT)
    return to


@pytest.mark.contract("12.19", "12.20", "12.21")
def test_a_script_sees_every_header_answers_one_and_streams(start: Start, tmp_path: Path) -> None:
    box = start(script_folder(tmp_path / "model"))
    with ask(box, b"{}") as w:
        reply = w.read()
    seen = {name.lower(): value for name, value in reply.json().items()}
    assert seen["x-amzn-sagemaker-custom-attributes"] == "trace=1;caller=me"
    assert seen["x-amzn-sagemaker-inference-id"] == "id-1"
    assert seen["x-amzn-sagemaker-target-variant"] == "AllTraffic"
    assert seen["x-amzn-sagemaker-forwarded-api"] == "InvokeEndpoint"
    assert reply.headers["x-amzn-sagemaker-custom-attributes"] == "seen=id-1"
    with ask(box, json.dumps({"parts": 3, "breaks": False}).encode(), LINES) as w:
        reply = w.read()
    assert (reply.status, reply.headers["content-type"], reply.headers["transfer-encoding"]) == (200, LINES, "chunked")
    assert [json.loads(line)["n"] for line in reply.body.splitlines()] == [0, 1, 2]
    with ask(box, json.dumps({"parts": 2, "breaks": True}).encode(), LINES) as w:
        assert w.begin()[0] == 200
        heard = [json.loads(w.chunk()) for _ in range(3)]
        with pytest.raises(Closed):  # a stream that broke does not look whole
            w.chunk()
    assert [part.get("n") for part in heard] == [0, 1, None]
    assert heard[-1]["error"]["code"] == "model_error" and "half way" in heard[-1]["error"]["message"]
    eventually(lambda: any(r.get("request_id") == "id-1" for r in box.log()), "the log has the request's id")


@pytest.mark.contract("12.30")
def test_a_batch_job_sends_what_it_is_told_to_and_gets_a_line_for_each_line(start: Start) -> None:
    box = start("digits", SAGEMAKER_BATCH="TRUE")
    with wire(box) as w:
        told = w.get("/execution-parameters").json()
        assert told["BatchStrategy"] == "MULTI_RECORD" and told["MaxConcurrentTransforms"] >= 2
        rows = model.some_rows(np.random.default_rng(8), 2000)
        reply = w.post(model.to_csv(rows) + b"\n", "text/csv", "text/csv")
    assert reply.status == 200 and reply.body.endswith(b"\n") and reply.body.count(b"\n") == len(rows)
    assert model.close(model.from_csv(reply.body), model.answers(rows))
