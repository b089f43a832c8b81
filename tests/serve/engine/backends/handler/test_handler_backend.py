from __future__ import annotations

import io
import json
import sys
import types
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from model_folder import Folder

from evenkeel.serve.engine.backends.base import LoadOptions, RawReply, RawRequest
from evenkeel.serve.engine.backends.handler.handler_backend import HandlerBackend, load
from evenkeel.serve.errors import (
    BadModel,
    BadRequest,
    BadShape,
    BodyTooLarge,
    EvenkeelError,
    ModelFailed,
    NotAcceptable,
    OutputNotFinite,
    UnsupportedMedia,
)

ECHO = "def model_fn(model_dir): return 'model'\ndef input_fn(body, content_type): return body\n"


@pytest.fixture(autouse=True)
def _clean_imports() -> Iterator[None]:
    """A handler puts its folder on the path; the next test has another folder."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name in ("inference", "beside", "serving") or name.startswith("evenkeel_handler_"):
            del sys.modules[name]


def handler(folder: Folder, script: str, data: Mapping[str, Any] | None = None) -> HandlerBackend:
    folder.put("code/inference.py", script)
    return load(folder.manifest(data), LoadOptions(threads=1))


def request(body: bytes | str = b"x", content_type: str = "application/octet-stream", accept: str = "*/*",
            **headers: str) -> RawRequest:  # fmt: skip
    body = body.encode() if isinstance(body, str) else body
    return RawRequest(body, content_type, accept, "id-1", {k.replace("_", "-"): v for k, v in headers.items()})


def one(backend: HandlerBackend, sent: RawRequest) -> RawReply:
    (reply,) = backend.handle([sent])
    assert isinstance(reply, RawReply), repr(reply)
    return reply


def failed(backend: HandlerBackend, sent: RawRequest) -> Exception:
    (reply,) = backend.handle([sent])
    assert isinstance(reply, Exception), repr(reply)
    return reply


# Scripts as people write them for the AWS containers ----------------------------------------------------------------------

MNIST = """
import json, logging, os, sys
import torch, torch.nn as nn, torch.nn.functional as F

logger = logging.getLogger(__name__)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, kernel_size=5)
        self.drop = nn.Dropout2d()
        self.fc = nn.Linear(2 * 12 * 12, 10)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.drop(self.conv(x)), 2))
        return F.log_softmax(self.fc(x.view(-1, 2 * 12 * 12)), dim=1)

def model_fn(model_dir):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Net()
    with open(os.path.join(model_dir, "model.pth"), "rb") as f:
        model.load_state_dict(torch.load(f, map_location=device, weights_only=True))
    return model.to(device)
"""


def mnist(folder: Folder, script: str = MNIST) -> HandlerBackend:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    state = {"conv.weight": torch.randn(2, 1, 5, 5), "conv.bias": torch.zeros(2),
             "fc.weight": torch.randn(10, 288), "fc.bias": torch.zeros(10)}  # fmt: skip
    held = io.BytesIO()
    torch.save(state, held)
    folder.put("model.pth", held.getvalue())
    return handler(folder, script)


def test_a_pytorch_script_with_only_a_model_fn_reads_arrays_and_writes_json(folder: Folder) -> None:
    backend = mnist(folder)
    picture = np.ones((1, 1, 28, 28), np.float32)
    reply = one(backend, request(json.dumps(picture.tolist()), "application/json", "application/json"))
    (row,) = json.loads(reply.body)
    assert (len(row), reply.content_type) == (10, "application/json")
    assert np.exp(row).sum() == pytest.approx(1.0)
    held = io.BytesIO()
    np.save(held, picture)
    again = one(backend, request(held.getvalue(), "application/x-npy", "application/x-npy"))
    assert np.load(io.BytesIO(again.body)) == pytest.approx(np.array([row]), rel=1e-5)  # dropout is off


def test_a_pytorch_script_with_all_four_functions_runs_unchanged(folder: Folder) -> None:
    backend = mnist(
        folder,
        MNIST
        + """
def input_fn(request_body, request_content_type):
    if request_content_type == "application/json":
        return torch.tensor(json.loads(request_body), dtype=torch.float32)
    raise ValueError(f"Unsupported content type {request_content_type}")

def predict_fn(input_object, model):
    model.eval()
    with torch.no_grad():
        return model(input_object).argmax(1)

def output_fn(prediction, content_type):
    assert content_type == "application/json"
    return json.dumps({"digit": prediction.tolist()})
""",
    )
    body = json.dumps(np.zeros((2, 1, 28, 28)).tolist())
    reply = one(backend, request(body, "application/json; charset=utf-8"))
    assert json.loads(reply.body)["digit"][0] in range(10)
    error = failed(backend, request(b"..", "image/png"))
    assert isinstance(error, ModelFailed)
    assert error.message == "input_fn raised ValueError: Unsupported content type image/png"
    assert isinstance(error.__cause__, ValueError)


def test_a_pytorch_folder_without_a_model_fn_loads_its_one_torchscript_file(folder: Folder) -> None:
    torch = pytest.importorskip("torch")
    torch.jit.script(torch.nn.Flatten()).save(str(folder.path / "net.pt"))
    backend = handler(folder, "def output_fn(prediction, accept): return str(tuple(prediction.shape))")
    assert one(backend, request("[[[1, 2], [3, 4]]]", "application/json")).body == b"(1, 4)"


SKLEARN = """
import json, os, joblib
import numpy as np

class Scaler:                       # pickled by the script under its own name
    def __init__(self, by): self.by = by

def model_fn(model_dir):
    return joblib.load(os.path.join(model_dir, "model.joblib"))
"""


def sklearn(folder: Folder, script: str = SKLEARN) -> HandlerBackend:
    joblib = pytest.importorskip("joblib")
    linear = pytest.importorskip("sklearn.linear_model")
    x = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    joblib.dump(linear.LogisticRegression().fit(x, [0, 0, 1, 1]), folder.path / "model.joblib")
    return handler(folder, script)


def test_a_scikit_learn_script_with_only_a_model_fn_reads_csv_and_json(folder: Folder) -> None:
    backend = sklearn(folder)
    assert one(backend, request("0,1\n1,0\n", "text/csv", "text/csv")) == RawReply(b"0\n1\n", "text/csv")
    assert one(backend, request("[[1, 1]]", "application/json")) == RawReply(b"[1]", "application/json")
    assert one(backend, request("1,0", "text/csv")).body == b"[1]"  # one line is one row


def test_a_scikit_learn_script_with_its_own_functions_runs_unchanged(folder: Folder) -> None:
    backend = sklearn(
        folder,
        SKLEARN
        + """
def input_fn(request_body, request_content_type):
    if request_content_type == "text/csv":
        return np.array([[float(v) for v in line.split(",")] for line in request_body.strip().split("\\n")])
    raise ValueError("This model only supports text/csv")

def predict_fn(input_data, model):
    return model.predict_proba(input_data)

def output_fn(prediction, accept):
    if accept == "application/json":
        return json.dumps({"instances": prediction.round(3).tolist()}), accept
    raise RuntimeError(f"{accept} accept type is not supported by this script.")
""",
    )
    reply = one(backend, request("0,1", "text/csv", "application/json"))
    assert sum(json.loads(reply.body)["instances"][0]) == pytest.approx(1.0)
    error = failed(backend, request("0,1", "text/csv", "text/csv"))
    assert str(error) == "output_fn raised RuntimeError: text/csv accept type is not supported by this script."


def test_a_hugging_face_transform_fn_gets_the_body_as_text(folder: Folder) -> None:
    backend = handler(
        folder,
        """
import json
def model_fn(model_dir, context=None):
    return lambda texts, top=1: [{"label": t.upper(), "top": top} for t in texts]
def transform_fn(model, input_data, content_type, accept):
    data = json.loads(input_data)
    assert isinstance(input_data, str) and accept == "application/json"
    return json.dumps(model(data["inputs"]))
""",
    )
    assert json.loads(one(backend, request('{"inputs": ["a"]}', "application/json")).body) == [{"label": "A", "top": 1}]


def test_a_hugging_face_pipeline_takes_inputs_and_parameters(folder: Folder) -> None:
    backend = handler(
        folder,
        """
import numpy as np
def model_fn(model_dir):
    return lambda text, top=1: [{"label": text, "score": np.float32(0.5), "top": top}]
""",
    )
    sent = request('{"inputs": "hi", "parameters": {"top": 3}}', "application/json")
    assert json.loads(one(backend, sent).body) == [{"label": "hi", "score": 0.5, "top": 3}]


# Calling ----------------------------------------------------------------------------------------------------------------


def test_modules_beside_the_script_can_be_imported(folder: Folder) -> None:
    folder.put("code/beside.py", "ANSWER = '42'")
    backend = handler(folder, ECHO + "from beside import ANSWER\ndef predict_fn(data, model): return ANSWER\n"
                      "def output_fn(prediction, accept): return prediction")  # fmt: skip
    assert one(backend, request()).body == b"42"


def test_a_class_pickled_by_the_script_is_found_again_under_its_name(folder: Folder) -> None:
    backend = handler(
        folder,
        """
import pickle
class Model:
    def predict(self, data): return "mine"
def model_fn(model_dir):
    import inference
    return pickle.loads(pickle.dumps(inference.Model()))
def input_fn(body, content_type): return body
def predict_fn(data, model): return [isinstance(model, Model), Model.__module__]
""",
    )
    assert json.loads(one(backend, request()).body) == [True, "inference"]


def test_a_script_with_a_name_of_the_standard_library_takes_it_from_nobody(folder: Folder) -> None:
    folder.put("json.py", ECHO + "def predict_fn(data, model): return __name__\ndef output_fn(p, accept): return p")
    backend = load(folder.manifest({"file": "json.py"}), LoadOptions(threads=1))
    assert one(backend, request()).body == b"evenkeel_handler_json" and sys.modules["json"] is json


def test_another_file_may_be_the_handler(folder: Folder) -> None:
    folder.put("serving.py", ECHO + "def predict_fn(data, model): return model")
    backend = load(folder.manifest({"file": "serving.py"}), LoadOptions(threads=1))
    assert one(backend, request()).body == b'"model"'


CONTEXT = """
def model_fn(model_dir, context):
    assert context.system_properties["model_dir"] == model_dir
    return context.model_name
def input_fn(body, content_type, context):
    return context.get_request_header(0, "X-Amzn-SageMaker-Custom-Attributes")
def predict_fn(data, model, context):
    context.metrics.add_counter("seen", 1)
    return [data, model, context.get_request_id(0), context.get_all_request_header(0)["Content-Type"]]
def output_fn(prediction, accept, *, context):
    context.set_response_content_type(0, "text/plain")
    context.set_response_header(0, "X-Amzn-SageMaker-Custom-Attributes", "trace=1")
    return " ".join(prediction)
"""


def test_a_function_with_one_more_argument_gets_the_context(folder: Folder) -> None:
    sent = request(b"x", "application/x-thing", x_amzn_sagemaker_custom_attributes="a=b")
    assert one(handler(folder, CONTEXT, {"name": "m"}), sent) == RawReply(
        b"a=b m id-1 application/x-thing", "text/plain", "trace=1")  # fmt: skip


def test_an_optional_argument_of_another_name_is_left_alone(folder: Folder) -> None:
    backend = handler(folder, ECHO + "def predict_fn(data, model, threshold=0.5): return threshold")
    assert one(backend, request()).body == b"0.5"


def test_the_context_can_refuse_a_request(folder: Folder) -> None:
    backend = handler(folder, ECHO + "def predict_fn(data, model, context):\n"
                      "    context.set_response_status(400, 'too long')\n    return {}")  # fmt: skip
    error = failed(backend, request())
    assert isinstance(error, BadRequest)
    assert error.message == "too long"


STATUSES: dict[str, tuple[str, int, str]] = {
    "a pair with a status": ("'no such thing', 404", 404, "no such thing"),
    "Flask's triple": ("'later', 503, {'Content-Type': 'text/plain'}", 503, "later"),
    "a dict with a status": ("{'detail': 'no'}, 422", 422, '{"detail":"no"}'),
    "a response": ("Gone()", 410, "gone"),
}


@pytest.mark.parametrize("case", STATUSES)
def test_a_status_of_the_script_reaches_the_client_as_it_is(folder: Folder, case: str) -> None:
    expression, status, words = STATUSES[case]
    backend = handler(folder, ECHO + "class Gone:\n    mimetype, status_code, response = 'text/plain', 410, ['gone']\n"
                      f"def predict_fn(data, model): return 1\ndef output_fn(p, a): return {expression}")  # fmt: skip
    error = failed(backend, request())
    assert isinstance(error, EvenkeelError) and (error.status, error.message) == (status, words)
    assert isinstance(error, ModelFailed if status >= 500 else BadRequest)
    again = failed(backend, request())
    assert isinstance(again, EvenkeelError) and again.status == status


def test_a_status_set_for_one_request_is_none_of_the_next(folder: Folder) -> None:
    backend = handler(folder, ECHO + "class Gone:\n    mimetype, status_code, response = 'text/plain', 410, ['gone']\n"
                      "def predict_fn(data, model): return data\n"
                      "def output_fn(p, accept): return Gone() if p == b'gone' else p")  # fmt: skip
    gone, here = backend.handle([request(b"gone"), request(b"here")])
    assert isinstance(gone, EvenkeelError) and gone.status == 410
    assert isinstance(here, RawReply) and (here.status, here.body) == (200, b"here")


@pytest.mark.parametrize(("returned", "status", "message"), [
    ("b'', 302", 302, "the status 302 has no body of its own"),
    ("b'x', 204", 204, "the status 204 has no body of its own"),
])  # fmt: skip
def test_a_status_that_is_no_answer_is_refused(folder: Folder, returned: str, status: int, message: str) -> None:
    backend = handler(folder, ECHO + f"def predict_fn(d, m): return 1\ndef output_fn(p, a): return {returned}")
    assert message in str(failed(backend, request()))


def installed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A module of an installed package with an error that has a status."""
    package = types.ModuleType(name)
    package.__file__ = f"/usr/lib/python3/site-packages/{name}/__init__.py"
    package.Upstream = type("Upstream", (Exception,), {"__module__": name, "status_code": 401})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, package)


RAISES = "def predict_fn(data, model): raise Upstream('invalid api key of our backend')"


def test_an_error_of_an_sdk_is_the_models_and_not_the_clients(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "some_sdk")
    error = failed(handler(folder, ECHO + f"from some_sdk import Upstream\n{RAISES}"), request())
    assert type(error) is ModelFailed and error.status == 500
    assert error.message == "predict_fn raised Upstream: invalid api key of our backend"


def test_an_error_of_a_web_framework_is_meant_for_the_client(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "sagemaker_inference")
    error = failed(handler(folder, ECHO + f"from sagemaker_inference import Upstream\n{RAISES}"), request())
    assert type(error) is BadRequest and error.status == 401


@pytest.mark.parametrize(("function", "logged"), [("predict_fn(data, model)", True), ("input_fn(body, kind)", False)])
def test_a_refusal_out_of_predict_fn_is_worth_a_line(folder: Folder, function: str, logged: bool) -> None:
    backend = handler(folder, ECHO + "class No(Exception): status_code = 404\n" + f"def {function}: raise No('no')")
    error = failed(backend, request())
    assert isinstance(error, BadRequest) and (error.status, error.to_log) == (404, logged)


RETURNS: dict[str, tuple[str, RawReply]] = {
    "a pair with a good status": ("(b'1', 201)", RawReply(b"1", "application/json", None, 201)),
    "Flask's triple with its type": ("('1', 200, {'Content-Type': 'text/plain'})", RawReply(b"1", "text/plain")),
    "a pair of words": ("('cat', 'dog')", RawReply(b'["cat","dog"]', "application/json")),
    "a pair of numbers": ("(0.5, 404)", RawReply(b"[0.5,404]", "application/json")),
    "a response with a charset": ("Charset()", RawReply(b"1", "text/csv; charset=utf-8")),
    "a str": ("'é'", RawReply("é".encode(), "application/json")),
    "bytes": ("b'1'", RawReply(b"1", "application/json")),
    "a pair with its type": ("(b'1', 'image/png')", RawReply(b"1", "image/png")),
    "a dict": ("{'a': np.float32(1)}", RawReply(b'{"a":1.0}', "application/json")),
    "an array": ("np.arange(2)", RawReply(b"[0,1]", "application/json")),
    "a response with get_data": ("Flask()", RawReply(b"flask", "text/plain")),
    "a response with a list": ("Werkzeug()", RawReply(b"ab", "text/csv")),
}


@pytest.mark.parametrize("case", RETURNS)
def test_output_fn_may_return(folder: Folder, case: str) -> None:
    expression, expected = RETURNS[case]
    backend = handler(
        folder,
        ECHO
        + f"""
import numpy as np
class Flask:
    mimetype, status_code = "text/plain", 200
    def get_data(self): return b"flask"
class Charset:
    mimetype, content_type, response = "text/csv", "text/csv; charset=utf-8", ["1"]
class Werkzeug:
    mimetype, response = "text/csv", ["a", b"b"]
def predict_fn(data, model): return data
def output_fn(prediction, accept): return {expression}
""",
    )
    assert one(backend, request()) == expected


# Failing ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("statement", "message"), [
    ("raise ValueError('bad\\nline')", "predict_fn raised ValueError: bad line"),
    ("raise KeyError('k')", "predict_fn raised KeyError: 'k'"),
    ("import sys; sys.exit(3)", "predict_fn raised SystemExit: 3"),
    ("raise KeyboardInterrupt", "predict_fn raised KeyboardInterrupt"),
    ("assert False", "predict_fn raised AssertionError"),
])  # fmt: skip
def test_whatever_a_script_raises_fails_its_own_request_only(folder: Folder, statement: str, message: str) -> None:
    backend = handler(folder, ECHO + f"def predict_fn(data, model):\n    if data == b'bad':\n        {statement}\n    return 1")
    good, bad, also_good = backend.handle([request(b"a"), request(b"bad"), request(b"b")])
    assert isinstance(good, RawReply) and isinstance(also_good, RawReply)
    assert type(bad) is ModelFailed
    assert bad.message == message
    assert bad.__cause__ is not None and bad.__cause__.__traceback__ is not None


def test_our_own_errors_pass_through(folder: Folder) -> None:
    backend = handler(folder, ECHO + "from evenkeel.serve.errors import BadRequest\n"
                      "def predict_fn(data, model): raise BadRequest('say please')")  # fmt: skip
    assert type(failed(backend, request())) is BadRequest


def test_returning_none_is_an_error_that_says_so(folder: Folder) -> None:
    backend = handler(folder, ECHO + "def predict_fn(data, model): return 1\ndef output_fn(prediction, accept): pass")
    assert "returned None" in str(failed(backend, request()))


def test_nan_is_not_written_as_json(folder: Folder) -> None:
    backend = handler(folder, ECHO + "import numpy as np\ndef predict_fn(data, model): return np.array([np.nan])")
    assert type(failed(backend, request())) is OutputNotFinite
    assert one(backend, request(accept="text/csv")).body == b"nan\n"


def test_a_prediction_that_fits_no_format_is_a_model_error(folder: Folder) -> None:
    backend = handler(folder, ECHO + "def predict_fn(data, model): return object()")
    assert "does not fit into JSON: TypeError: object is not JSON" in str(failed(backend, request()))


READ_ONLY = "class M:\n    def predict(self, x): return x\ndef model_fn(model_dir): return M()\n"


@pytest.mark.parametrize(("body", "content_type", "kind"), [
    (b"[[1, 2], [3]]", "application/json", BadRequest),
    (b"[Infinity]", "application/json", BadRequest),
    (b"1\n[", "application/jsonlines", BadRequest),
    (b"\n\n", "text/csv", BadRequest),
    (b"[1e39]", "application/json", BadRequest),  # no float32
    (b"[-1e999]", "application/json", BadRequest),
    (b"{", "application/json", BadRequest),
    (b"\xff", "application/json", BadRequest),
    (b"", "text/csv", BadRequest),
    (b"1,a", "text/csv", BadRequest),
    (b"1,2\n3", "text/csv", BadShape),
    (b'1,"2', "text/csv", BadRequest),
    (b"1,2", "text/csv; charset=klingon", UnsupportedMedia),
    (b"1,\xff", "text/csv", BadRequest),
    (b"junk", "application/x-npy", BadRequest),
    (b"PK\x03\x04junk", "application/x-npz", BadRequest),
    (b"x", "image/png", UnsupportedMedia),
])  # fmt: skip
def test_a_body_the_defaults_cannot_read_is_the_clients_fault(
    folder: Folder, body: bytes, content_type: str, kind: type[Exception]
) -> None:
    assert type(failed(handler(folder, READ_ONLY), request(body, content_type))) is kind


@pytest.mark.parametrize(("body", "content_type", "answer"), [
    (b"\xef\xbb\xbf[1, 2]", "application/json", b"[1.0,2.0]"),
    (b"\xef\xbb\xbf1,2\n", "text/csv", b"[[1.0,2.0]]"),
])  # fmt: skip
def test_the_defaults_skip_a_byte_order_mark_as_the_tensors_codecs_do(
    folder: Folder, body: bytes, content_type: str, answer: bytes
) -> None:
    assert one(handler(folder, READ_ONLY), request(body, content_type)).body == answer


def npy_that_claims(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    held = io.BytesIO()
    np.lib.format.write_array_header_1_0(held, {"descr": descr, "fortran_order": False, "shape": shape})
    return held.getvalue() + bytes(64)


@pytest.mark.parametrize("body", [
    npy_that_claims((10**10,)), npy_that_claims((10**18,)), npy_that_claims((10**30,)), npy_that_claims((0, 10**30)),
    npy_that_claims((10**18,), "<U0"), npy_that_claims((17,)), npy_that_claims((-1,)),
])  # fmt: skip
def test_npy_that_claims_more_than_it_brings_is_the_clients_fault(folder: Folder, body: bytes) -> None:
    assert type(failed(handler(folder, READ_ONLY), request(body, "application/x-npy"))) is BadRequest


def test_a_small_archive_that_unpacks_to_very_much_is_refused_before_it_is(folder: Folder) -> None:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
        member.write(npy_that_claims((300 << 20,), "|u1"))
        for _ in range(300):
            member.write(bytes(1 << 20))
    assert len(held.getvalue()) < 1 << 20
    error = failed(handler(folder, READ_ONLY), request(held.getvalue(), "application/x-npz"))
    assert type(error) is BodyTooLarge and "256 MiB" in str(error)


@pytest.mark.parametrize("body", [
    json.dumps(["a" * 100_000] + ["b"] * 1000).encode(),
    json.dumps([["a"], ["b" * 70_000_000]]).encode(),
    json.dumps([1] * 3_000_000 + ["b"]).encode(),
], ids=["one long among short", "one very long", "numbers with a text"])  # fmt: skip
def test_texts_that_would_fill_the_memory_as_an_array_are_refused(folder: Folder, body: bytes) -> None:
    error = failed(handler(folder, READ_ONLY), request(body, "application/json"))
    assert type(error) is BodyTooLarge and "as long as the longest" in str(error)


def test_one_text_that_becomes_no_array_may_be_long(folder: Folder) -> None:
    text = json.dumps("a" * 70_000_000)
    backend = handler(folder, "def model_fn(d): return 1\ndef predict_fn(data, model): return len(data)")
    assert one(backend, request(text, "application/json")).body == b"70000000"


def test_a_pickle_inside_npy_is_never_loaded(folder: Folder) -> None:
    held = io.BytesIO()
    np.save(held, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    error = failed(handler(folder, READ_ONLY), request(held.getvalue(), "application/x-npy"))
    assert type(error) is BadRequest
    assert "allow_pickle=False" in str(error)


def test_the_first_type_in_accept_that_can_be_written_is(folder: Folder) -> None:
    backend = handler(folder, READ_ONLY)
    for accept, content_type in [("application/x-npz", "application/x-npz"), ("application/jsonlines", "application/jsonlines"),
                                 ("image/png, text/csv;q=0.5", "text/csv"), ("*/*", "application/json"), ("", "application/json"),
                                 ("text/html, */*;q=0.1", "application/json")]:  # fmt: skip
        assert one(backend, request("[1]", "application/json", accept)).content_type == content_type
    assert type(failed(backend, request("[1]", "application/json", "image/png"))) is NotAcceptable


def test_npz_becomes_arrays_by_name(folder: Folder) -> None:
    held = io.BytesIO()
    np.savez(held, a=np.array([1, 2]))
    backend = handler(folder, "def model_fn(d): return 1\ndef predict_fn(data, model): return data['a']")
    assert one(backend, request(held.getvalue(), "application/x-npz")).body == b"[1,2]"


# Batches ------------------------------------------------------------------------------------------------------------------

BATCHED = """
PREDICT_TAKES_BATCH = True
calls = []
def model_fn(model_dir): return calls
def input_fn(body, content_type):
    if body == b"unreadable": raise ValueError("unreadable")
    return body.decode()
def predict_fn(items, model):
    assert isinstance(items, list)
    model.append(list(items))
    if "bad" in items: raise RuntimeError("bad item")
    return [f"{item}/{len(items)}" for item in items]
def output_fn(prediction, accept): return prediction
"""


def bodies(replies: Any) -> list[bytes | str]:
    return [reply.body if isinstance(reply, RawReply) else str(reply) for reply in replies]


def test_a_batched_predict_fn_sees_all_items_at_once(folder: Folder) -> None:
    assert bodies(handler(folder, BATCHED).handle([request(b"a"), request(b"b")])) == [b"a/2", b"b/2"]


def test_the_manifest_can_say_that_predict_fn_takes_batches(folder: Folder) -> None:
    script = BATCHED.replace("PREDICT_TAKES_BATCH = True", "")
    backend = handler(folder, script, {"handler": {"batched": True}})
    assert bodies(backend.handle([request(b"a"), request(b"b")])) == [b"a/2", b"b/2"]


def test_a_body_that_cannot_be_read_leaves_the_batch(folder: Folder) -> None:
    replies = handler(folder, BATCHED).handle([request(b"a"), request(b"unreadable"), request(b"b")])
    assert bodies(replies) == [b"a/2", "input_fn raised ValueError: unreadable", b"b/2"]


def test_when_a_batch_raises_every_item_is_tried_alone(folder: Folder) -> None:
    replies = handler(folder, BATCHED).handle([request(b"a"), request(b"bad"), request(b"b")])
    assert bodies(replies) == [b"a/1", "predict_fn raised RuntimeError: bad item", b"b/1"]


@pytest.mark.parametrize(("returned", "message"), [
    ("items[:1]", "returned 1 predictions for 2 requests"),
    ("None", "must return a list of 2, not NoneType"),
    ("'ab'", "must return a list of 2, not str"),
    ("(x for x in items)", "must return a list of 2, not generator"),
])  # fmt: skip
def test_a_wrong_number_of_predictions_fails_the_whole_batch(folder: Folder, returned: str, message: str) -> None:
    backend = handler(folder, ECHO + f"PREDICT_TAKES_BATCH = True\ndef predict_fn(items, model): return {returned}")
    replies = backend.handle([request(b"a"), request(b"b")])
    assert all(type(reply) is ModelFailed and message in str(reply) for reply in replies)


def test_rows_of_an_array_are_predictions_too(folder: Folder) -> None:
    backend = handler(folder, ECHO + "import numpy as np\nPREDICT_TAKES_BATCH = True\n"
                      "def predict_fn(items, model): return np.eye(len(items))")  # fmt: skip
    assert bodies(backend.handle([request(b"a"), request(b"b")])) == [b"[1.0,0.0]", b"[0.0,1.0]"]


def test_the_context_of_a_batch_follows_its_items(folder: Folder) -> None:
    backend = handler(folder, BATCHED.replace("(items, model)", "(items, model, context)").replace(
        "return [f", "return [context.get_request_header(i, 'x-n') for i, _ in enumerate(items)] or [f"))  # fmt: skip
    replies = backend.handle([request(b"unreadable", x_n="0"), request(b"a", x_n="1"), request(b"b", x_n="2")])
    assert bodies(replies)[1:] == [b"1", b"2"]


# Loading ------------------------------------------------------------------------------------------------------------------

NOT_LOADED: dict[str, tuple[str, str]] = {
    "syntax": ("def model_fn(:", r"^code/inference.py:1: SyntaxError: "),
    "a missing package": ("\nimport no_such_package", r"^code/inference.py:2: import failed: ModuleNotFoundError: .*install it"),
    "an import that exits": ("import sys\nsys.exit('no')", r"^code/inference.py:2: import failed: SystemExit: no$"),
    "model_fn raises": ("def model_fn(d):\n    return open(d + '/none')", r"^code/inference.py:2: model_fn raised FileNot"),
    "no model_fn": ("x = 1", r"no model_fn\(model_dir\).*exactly one TorchScript .*found: none"),
    "both ways": ("def transform_fn(m, b, c, a): pass\ndef predict_fn(d, m): pass", "transform_fn does it all"),
    "too few arguments": ("def predict_fn(data): pass", r"code/inference.py: predict_fn takes 1 arguments, but is called with 2"),
    "async": ("async def predict_fn(data, model): pass", "predict_fn is async"),
    "batched without predict_fn": ("PREDICT_TAKES_BATCH = True\ndef model_fn(d): pass", "needs its own predict_fn"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_LOADED)
def test_a_script_that_cannot_be_loaded_is_refused_with_its_line(folder: Folder, case: str) -> None:
    script, message = NOT_LOADED[case]
    with pytest.raises(BadModel, match=message) as e:
        handler(folder, script)
    assert "\n" not in e.value.message


def test_a_failure_in_a_module_beside_the_script_names_that_file(folder: Folder) -> None:
    folder.put("code/beside.py", "def load():\n    raise OSError('no weights')")
    with pytest.raises(BadModel, match=r"^code/beside.py:2: model_fn raised OSError: no weights"):
        handler(folder, "import beside\ndef model_fn(d):\n    return beside.load()")


# Ways of TorchServe and of archives from elsewhere ----------------------------------------------------------------------


def test_names_of_torchserves_context_are_there(folder: Folder) -> None:
    script = ECHO + ("def predict_fn(data, model, context):\n    asked = context._request_processor[0]\n"
                     "    name = context.manifest['model']['modelName']\n"
                     "    return [asked.get_request_property('accept'), name == context.model_name]")  # fmt: skip
    assert one(handler(folder, script), request(accept="application/json")).body == b'["application/json",true]'


def test_files_that_a_mac_puts_beside_others_are_no_models(folder: Folder) -> None:
    folder.put("._model.pt", b"")
    folder.put("code/inference.py", "def predict_fn(data, model): return 1")
    with pytest.raises(BadModel, match=r"\(found: none\)"):
        load(folder.manifest(), LoadOptions(threads=1))
