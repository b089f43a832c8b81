"""No object that a script returns, sets or raises ends an engine: each concerns its own request, and the function is named."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_folder import Folder
from odd_objects import RAISED, VALUES, caused_by_nobody

from evenkeel.serve.batching.cost import CostModel
from evenkeel.serve.engine.backends.base import LoadOptions, RawReply, RawRequest
from evenkeel.serve.engine.backends.handler.handler_backend import HandlerBackend, load
from evenkeel.serve.engine.failures import translated
from evenkeel.serve.engine.foreign import kind_of, ours, said, text_of, trace_of
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.engine.models.samples import whole
from evenkeel.serve.errors import BadModel, EvenkeelError, ModelFailed
from tests.support.engine_bench import Answer, Bench, Fault

HEAD = """
ACT = None  # (seam, what to do there): for requests that say b"odd"

def at(seam, data, context=None, otherwise=None):
    data = data[0] if isinstance(data, list) else data
    if ACT is not None and data == b"odd" and seam in ("context", ACT[0]):
        return ACT[1](context) if seam == ACT[0] else otherwise
    return otherwise

def model_fn(model_dir): return "model"
"""
THREE = """
def input_fn(body, content_type, context):
    at("context", body, context)
    at("input_fn", body, context)
    return body
"""
ALONE = """
def predict_fn(data, model, context): return at("predict_fn", data, context, data)
def output_fn(prediction, accept):
    return at("output_fn", prediction, otherwise=prediction.upper() if prediction != b"odd" else b"")
"""
BATCHED = """
PREDICT_TAKES_BATCH = True
def predict_fn(items, model, context):
    if b"odd" in items and ACT is not None and ACT[0] == "predict_fn":
        items.pop()
        return ACT[1](context)
    return list(items)
def output_fn(prediction, accept): return at("output_fn", prediction, otherwise=prediction.upper())
"""
TRANSFORM = """
def transform_fn(model, body, content_type, accept, context):
    at("context", body, context)
    return at("transform_fn", body, context, body.upper())
"""
DEFAULT_OUTPUT = """
def predict_fn(data, model, context): return at("predict_fn", data, context, data.upper())
"""
SCRIPTS = {
    "alone": THREE + ALONE,
    "batched": THREE + BATCHED,
    "transform_fn": TRANSFORM,
    "default output": THREE + DEFAULT_OUTPUT,
}
# Some refuse to be collected. Told while an exception that no encoding takes is handled, that would end a worker of the tests.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

NAMES = ("input_fn", "predict_fn", "output_fn", "transform_fn")


@pytest.fixture(autouse=True)
def _clean_imports() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name == "inference" or name.startswith("evenkeel_handler_"):
            del sys.modules[name]


def handler(folder: Folder, script: str) -> HandlerBackend:
    folder.put("code/inference.py", script)
    return load(folder.manifest(), LoadOptions(threads=1))


def module_of(backend: HandlerBackend) -> Any:
    return sys.modules["inference"]


def raising(make: Callable[[], BaseException]) -> Callable[[Any], Any]:
    def act(context: Any) -> Any:
        raise make()

    return act


CONTEXT: dict[str, Callable[[Any, Any], Any]] = {
    "a header": lambda context, x: context.set_response_header(0, "X-Amzn-SageMaker-Custom-Attributes", x),
    "a header that is dropped": lambda context, x: context.set_response_header(0, "X-Other", x),
    "a header's name": lambda context, x: context.set_response_header(0, x, "v"),
    "a place": lambda context, x: context.set_response_header(x, "content-type", "a/b"),
    "the content type": lambda context, x: context.set_response_content_type(0, x),
    "a status": lambda context, x: context.set_response_status(x, "words"),
    "a phrase": lambda context, x: context.set_response_status(400, x),
    "headers": lambda context, x: setattr(context.request_processor[0], "headers", x),
    "a header below": lambda context, x: context.get_response_headers(0).__setitem__("x-amzn-sagemaker-custom-attributes", x),
    "a type below": lambda context, x: context.get_response_headers(0).__setitem__("content-type", x),
    "a code below": lambda context, x: setattr(context.request_processor[0], "code", x),
    "a phrase below": lambda context, x: context.request_processor[0].__dict__.update(code=404, phrase=x),
    "a header asked for": lambda context, x: context.get_request_header(0, x),
    "the processors": lambda context, x: setattr(context, "request_processor", x),
}


def doing(what: str, name: str) -> Callable[[Any], Any]:
    if what == "returned":
        return lambda context: VALUES[name]()
    if what == "returned with a type":
        return lambda context: (b"body", VALUES[name]())
    if what == "returned as a body":
        return lambda context: (VALUES[name](), "a/b")
    if what == "yielded":
        return lambda context: iter([b"first", VALUES[name](), b"last"])
    if what == "in a list":
        return lambda context: [VALUES[name](), VALUES[name]()]
    if what == "raised":
        return raising(RAISED[name])
    if what == "raised late":
        return lambda context: late(RAISED[name])
    if what == "raised from":
        return lambda context: chained(RAISED[name])
    return lambda context: CONTEXT[what](context, VALUES[name]())


def late(make: Callable[[], BaseException]) -> Iterator[bytes]:
    yield b"first"
    raise make()


def chained(make: Callable[[], BaseException]) -> None:
    raise ValueError("on top") from make()


WITH_VALUES = ("returned", "returned with a type", "returned as a body", "yielded", "in a list", *CONTEXT)
WITH_ERRORS = ("raised", "raised late", "raised from")
ACTS = st.one_of(
    st.tuples(st.sampled_from(WITH_VALUES), st.sampled_from(sorted(VALUES))),
    st.tuples(st.sampled_from(WITH_ERRORS), st.sampled_from(sorted(RAISED))),
)


@pytest.fixture(scope="module", params=SCRIPTS)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, Any]]:
    folder = Folder(tmp_path_factory.mktemp("odd"))
    backend = handler(folder, HEAD + SCRIPTS[request.param])
    replica = Replica(folder.manifest(), CostModel(), 8 if backend.batched else 1, handler=backend)
    script = module_of(backend)
    with Bench(replica) as made:
        yield made, script


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(act=ACTS, seam=st.sampled_from([*NAMES, "context"]))
def test_whatever_a_script_does_the_cycle_goes_on_and_others_are_answered(
    bench: tuple[Bench, Any], act: tuple[str, str], seam: str
) -> None:
    made, script = bench
    script.ACT = (seam, doing(*act))
    front = made.front(slot_bytes=32 << 10)
    before, odd, after = (front.submit_raw(body, content_type="a/b", accept="a/b") for body in (b"one", b"odd", b"two"))
    found: dict[int, Answer | Fault] = {}
    for _ in range(60):
        made.turn(1)
        found |= front.replies()
    if odd not in found:  # a stream without end
        front.cancel(odd)
        made.turn()
        found |= front.replies()
    assert odd in found
    for id, body in ((before, b"ONE"), (after, b"TWO")):
        good = found[id]
        if isinstance(good, Fault):  # in a batch, what predict_fn returns for all is wrong for all
            assert seam == "predict_fn" and getattr(script, "PREDICT_TAKES_BATCH", False), good
        else:
            assert good.raw.endswith(body) or seam == "predict_fn"
    fault = found[odd]
    if isinstance(fault, Fault) and fault.code == "model_error" and act[0] != "a phrase below":
        assert any(name in fault.message for name in NAMES), fault.message
    script.ACT = None
    last = front.submit_raw(b"three", content_type="a/b", accept="a/b")
    made.turn()
    answer = front.replies()[last]
    assert isinstance(answer, Answer) and answer.raw.endswith(b"THREE")


@pytest.mark.parametrize("name", RAISED)
def test_every_exception_can_be_told_and_translated(name: str) -> None:
    e = caught(lambda: chained(RAISED[name])).__cause__
    assert e is not None
    for text in (said(e), text_of(e), kind_of(e), trace_of(e)):
        assert type(text) is str
    assert "\n" not in said(e) and len(said(e)) < 1200 and 0 < len(trace_of(e)) < 20_000
    assert issubclass(type(translated(e)), EvenkeelError) and ours(e) is None


@pytest.mark.parametrize("name", RAISED)
@pytest.mark.parametrize("where", ["def model_fn(d): raise ", "raise "], ids=["in model_fn", "at import"])
def test_whatever_a_start_raises_is_one_line_with_the_files_name(folder: Folder, name: str, where: str) -> None:
    error = caught(lambda: handler(folder, f"from odd_objects import RAISED\n{where}RAISED[{name!r}]()"))
    assert type(error) is BadModel
    assert (
        error.message.startswith("code/inference.py:2: " if name != "meta" else "code/inference.py: ")
        and "\n" not in error.message
    )


def caught(call: Callable[[], Any]) -> BaseException:
    """What it raises, outside of the except block: what a failing test shows then holds no odd object."""
    try:
        call()
    except BaseException as e:
        return e
    raise AssertionError("it raised nothing")


@pytest.mark.parametrize("name", VALUES)
def test_any_object_may_be_the_model(folder: Folder, name: str) -> None:
    script = f"from odd_objects import VALUES\ndef model_fn(d): return VALUES[{name!r}]()\n"
    try:
        backend = handler(folder, script + "def transform_fn(model, body, kind, accept): return body")
    except BadModel as e:
        assert e.message.startswith("code/inference.py: ")
    else:
        assert isinstance(one(backend), RawReply)


@pytest.mark.parametrize("name", VALUES)
def test_any_object_may_stand_where_a_function_belongs(folder: Folder, name: str) -> None:
    script = f"from odd_objects import VALUES\ndef model_fn(d): return 1\ntransform_fn = VALUES[{name!r}]()"
    try:
        result = one(handler(folder, script))
    except BadModel as e:
        assert "\n" not in e.message
    else:
        assert isinstance(result, RawReply | EvenkeelError)


def request(body: bytes = b"odd", accept: str = "*/*") -> RawRequest:
    return RawRequest(body, "application/octet-stream", accept, "id-1")


def one(backend: HandlerBackend, sent: RawRequest | None = None) -> RawReply | Exception:
    (result,) = backend.handle([sent or request()])
    return whole(result)


# What is sent where there is one meaning, and what is said where there is none --------------------------------------------------


def told(folder: Folder, statement: str, imports: str = "") -> RawReply | Exception:
    """A script that says something on its context."""
    script = f"{imports}\nATTRIBUTES = {ATTRIBUTES!r}\ndef model_fn(d): return 1\ndef transform_fn(m, b, c, a, context):\n"
    return one(handler(folder, f"{script}    {statement}\n    return b'x'"))


ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("42", "42"),
        ("0", "0"),
        ("0.5", "0.5"),
        ("b'abc'", "abc"),
        ("True", "True"),
        ("None", None),
        ("''", None),
        ("np.float32(0.5)", "0.5"),
        ("uuid.UUID(int=1)", "00000000-0000-0000-0000-000000000001"),
        ("date(2026, 1, 2)", "2026-01-02"),
    ],
)
def test_a_header_of_another_type_is_sent_as_its_text(folder: Folder, value: str, sent: str | None) -> None:
    imports = "import uuid, numpy as np\nfrom datetime import date"
    reply = told(folder, f"context.set_response_header(0, {ATTRIBUTES!r}, {value})", imports=imports)
    assert isinstance(reply, RawReply) and reply.custom_attributes == sent


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("set_response_header(0, ATTRIBUTES, {'a': 1})", "TypeError: the value of a header must be text, not dict"),
        (
            "set_response_header(0, ATTRIBUTES, 'a\\r\\nb: c')",
            "x-amzn-sagemaker-custom-attributes must be at most 1024 visible",
        ),
        ("set_response_header(0, 5, 'v')", "TypeError: the name of a header must be text, not int"),
        ("set_response_content_type(0, ['a/b'])", "TypeError: a content type must be text, not list"),
        ("set_response_content_type(0, 5)", "TypeError: a content type must be text, not int"),
        ("set_response_status('bad')", "ValueError: a status is a number from 100 to 599, not 'bad'"),
        ("set_response_status(99999)", "not 99999"),
    ],
)
def test_what_cannot_be_sent_is_refused_in_the_line_that_says_it(folder: Folder, statement: str, message: str) -> None:
    error = told(folder, f"context.{statement}")
    assert type(error) is ModelFailed
    assert error.message.startswith("transform_fn raised ") and message in error.message


@pytest.mark.parametrize("code", ["'400'", "400", "400.0", "HTTPStatus.BAD_REQUEST", "np.int64(400)"])
def test_a_status_may_be_anything_that_says_one(folder: Folder, code: str) -> None:
    imports = "from http import HTTPStatus\nimport numpy as np"
    error = told(folder, f"context.set_response_status({code}, {{'detail': 'bad'}})", imports=imports)
    assert isinstance(error, EvenkeelError) and (error.status, error.message) == (400, "{'detail': 'bad'}")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("Response(5.5)", "a content type must be text, not float"),
        ("Response(mimetype=[1])", "a content type must be text, not list"),
        ("Response(status_code=object())", "a status is a number from 100 to 599, not object"),
        ("Surly()", "RuntimeError: no mimetype here"),
        ("Untouchable()", "RuntimeError: "),
        ("None", "returned None: does it lack a return?"),
        ("File(1)", "gave int where str or bytes belong"),
        ("object()", "returned object: it does not fit into JSON: TypeError"),
    ],
)
def test_what_output_fn_returned_is_named(folder: Folder, returned: str, message: str) -> None:
    error = one(handler(folder, f"from odd_objects import *\n{HEAD}{THREE}def predict_fn(d, m): return d\n"
                        f"def output_fn(p, a): return {returned}"))  # fmt: skip
    assert type(error) is ModelFailed and message in error.message
    assert error.message.startswith("output_fn returned ")


def test_the_words_of_our_own_errors_are_made_text(folder: Folder) -> None:
    error = one(handler(folder, "from evenkeel.serve.errors import BadRequest\nclass Mine(BadRequest): pass\n"
                                "def model_fn(d): return 1\n"
                        "def transform_fn(m, b, c, a): raise Mine({'a': 1})"))  # fmt: skip
    assert isinstance(error, EvenkeelError) and (error.code, error.message) == ("bad_request", "{'a': 1}")


def test_the_cause_of_an_error_is_in_its_trace() -> None:
    assert "ValueError: inner" in trace_of(caused_by_nobody()) and "ValueError: outer" in trace_of(caused_by_nobody())


# Files --------------------------------------------------------------------------------------------------------------------------

FILES: dict[str, tuple[str, bytes, str]] = {
    "a buffer just written": ("b = io.BytesIO(); np.save(b, np.arange(2)); return b", b"\x93NUMPY", "application/octet-stream"),
    "a buffer at its start": ("return io.BytesIO(b'a\\nb\\n')", b"a\nb\n", "application/octet-stream"),
    "a text": ("b = io.StringIO(); b.write('é\\nx'); return b", "é\nx".encode(), "text/plain; charset=utf-8"),
    "an open file": ("return open(__file__, 'rb')", b"import io", "application/octet-stream"),
    "an open text": ("return open(__file__)", b"import io", "text/plain; charset=utf-8"),
    "a spooled file": ("f = tempfile.SpooledTemporaryFile(); f.write(b'a\\nb'); return f", b"a\nb", "application/octet-stream"),
    "a temporary file": ("f = tempfile.NamedTemporaryFile(); f.write(b'a\\nb'); return f", b"a\nb", "application/octet-stream"),
    "what only reads": ("return File(b'a\\n', b'b')", b"a\nb", "application/octet-stream"),
    "with a type": ("return io.BytesIO(b'a'), 'image/png'", b"a", "image/png"),
    "nothing": ("return io.BytesIO()", b"", "application/octet-stream"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("function", ["transform_fn(model, body, kind, accept)", "predict_fn(data, model)"])
def test_a_file_is_sent_whole_as_one_body(folder: Folder, name: str, function: str) -> None:
    statements, begins, content_type = FILES[name]
    if name == "with a type" and "predict_fn" in function:
        pytest.skip("a pair with its type comes from the function that answers")
    imports = "import io, tempfile, numpy as np\nfrom odd_objects import File\n"
    more = "def input_fn(b, c): return b\n" if "predict_fn" in function else ""
    backend = handler(folder, f"{imports}{more}def model_fn(d): return 1\ndef {function}:\n    {statements}")
    (reply,) = backend.handle([request()])
    assert isinstance(reply, RawReply), reply
    assert reply.body.startswith(begins) and (begins or not reply.body) and reply.content_type == content_type


def test_the_type_of_a_file_is_the_one_that_the_client_asks_for(folder: Folder) -> None:
    backend = handler(folder, "import io\ndef model_fn(d): return 1\ndef transform_fn(m, b, c, a): return io.BytesIO(b'x')")
    reply = one(backend, request(accept="application/x-npy"))
    assert isinstance(reply, RawReply) and reply.content_type == "application/x-npy"


def test_a_file_without_end_is_refused_with_its_bound(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evenkeel.serve.engine.backends.handler.handler_files.FILE_BYTES_MAX", 4 << 20)
    backend = handler(folder, "def model_fn(d): return 1\ndef transform_fn(m, b, c, a): return open('/dev/zero', 'rb')")
    error = one(backend)
    assert type(error) is ModelFailed and "may hold 4 MB" in error.message


def test_a_map_stays_a_stream(folder: Folder) -> None:
    backend = handler(folder, "def model_fn(d): return 1\ndef transform_fn(m, b, c, a): return map(str, [1, 2])")
    assert one(backend) == RawReply(b"12", "application/jsonlines")


# Batches ------------------------------------------------------------------------------------------------------------------------


def test_a_predict_fn_that_empties_its_list_and_raises_fails_only_the_bad_one(folder: Folder) -> None:
    script = ("PREDICT_TAKES_BATCH = True\ndef model_fn(d): return 1\ndef input_fn(b, c): return b\n"
              "def output_fn(p, a): return p\ndef predict_fn(items, model, context):\n    seen = list(items); items.clear()\n"
              "    if b'odd' in seen: raise ValueError('odd')\n    return seen")  # fmt: skip
    first, odd, last = handler(folder, script).handle([request(b"a"), request(b"odd"), request(b"b")])
    assert isinstance(first, RawReply) and isinstance(last, RawReply) and (first.body, last.body) == (b"a", b"b")
    assert isinstance(odd, ModelFailed) and odd.message == "predict_fn raised ValueError: odd"


def test_an_error_that_is_returned_as_a_prediction_is_a_prediction(folder: Folder) -> None:
    script = ("from evenkeel.serve.errors import ModelFailed\nPREDICT_TAKES_BATCH = True\ndef model_fn(d): return 1\n"
              "def input_fn(b, c): return b\ndef output_fn(p, a): return repr(p)\n"
              "def predict_fn(items, model): return [ModelFailed('mine') for _ in items]")  # fmt: skip
    assert one(handler(folder, script)) == RawReply(b"ModelFailed('mine')", "application/json")
