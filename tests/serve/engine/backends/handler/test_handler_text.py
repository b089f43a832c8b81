"""CSV and JSON Lines of handlers without functions of their own, as AWS's toolkits take and give them."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from evenkeel.serve.engine.backends.handler.handler_defaults import decoded, encoded
from evenkeel.serve.engine.backends.handler.handler_text import csv_of, text_of_body
from evenkeel.serve.engine.script_guard import Unfit
from evenkeel.serve.errors import BadRequest, BadShape

NAN = float("nan")


@pytest.mark.parametrize(("body", "content_type", "rows"), [
    ("1,,3", "text/csv", [[1, NAN, 3]]),
    ("1,2,\n", "text/csv", [[1, 2, NAN]]),
    ('"1","2","3"\r\n', "text/csv", [[1, 2, 3]]),
    ("\ufeff1,2,3", "text/csv", [[1, 2, 3]]),
    ("a,b\n1,2\n", "text/csv; header=present", [[1, 2]]),
    ("1,2\n\n3,4\n\n", "text/csv", [[1, 2], [3, 4]]),
    (" 1 , nan ,inf", "text/csv", [[1, NAN, float("inf")]]),
    ("[1, NaN]", "application/json", [1, NAN]),
    ("[1,2]\n[3,4]\n", "application/jsonlines", [[1, 2], [3, 4]]),
    ("1\n2", "application/x-ndjson", [1, 2]),
])  # fmt: skip
def test_what_the_defaults_read(body: str, content_type: str, rows: list[object]) -> None:
    for given in (body, body.encode()):
        got = decoded(given, content_type)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, np.array(rows, np.float32))


def test_a_charset_that_is_named_counts() -> None:
    assert text_of_body(b"caf\xe9", "text/csv; charset=iso-8859-1") == "café"


@pytest.mark.parametrize(("body", "kind", "words"), [
    ("1,2\n3,x", BadRequest, "line 2, column 2: 'x' is not a number"),
    ("1,\n3", BadShape, "line 2: expected 2 columns, got 1"),
    ("1_0,", BadRequest, "line 1, column 1: '1_0' is not a number"),
])  # fmt: skip
def test_a_cell_that_is_no_number_is_named(body: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        decoded(body, "text/csv")


def test_lines_of_objects_stay_objects() -> None:
    assert decoded('{"a": 1}\n\n"b"\n', "application/jsonlines") == [{"a": 1}, "b"]


def test_numbers_of_another_byte_order_become_the_machines_own() -> None:
    held = io.BytesIO()
    np.save(held, np.ones((2, 3), ">f4"))
    assert decoded(held.getvalue(), "application/x-npy").dtype == np.dtype("<f4")


@pytest.mark.parametrize(("prediction", "written"), [
    (np.array([[1.5, 2.0]], np.float32), "1.5,2.0\n"),
    ([0.1, 2], "0.1\n2.0\n"),
    (["Smith, John", 'a "b"', "two\nlines", "one\rtwo"], '"Smith, John"\n"a ""b"""\n"two\nlines"\n"one\rtwo"\n'),
    ([{"label": "a,b", "score": 0.5}, {"label": "c", "more": None}], 'label,score,more\n"a,b",0.5,\nc,,\n'),
    ({"a": 1, "b": "x,y"}, 'a,b\n1,"x,y"\n'),
    ([None], '""\n'),
    (3, "3\n"),
])  # fmt: skip
def test_what_the_defaults_write_as_csv_reads_back(prediction: object, written: str) -> None:
    body, kind = encoded(prediction, "text/csv")
    assert (body.decode(), kind) == (written, "text/csv")
    list(csv.reader(io.StringIO(written, newline=""), strict=True))


@pytest.mark.parametrize("prediction", [np.zeros((2, 2, 2)), [{"a": [1]}]])
def test_what_has_no_lines_of_cells_is_refused(prediction: object) -> None:
    with pytest.raises(Unfit, match="does not fit into CSV"):
        csv_of(prediction)


@pytest.mark.parametrize(("prediction", "written"), [
    (np.array([[1, 2], [3, 4]]), "[1,2]\n[3,4]\n"),
    ([{"a": 1}, "b"], '{"a":1}\n"b"\n'),
    ({"a": 1}, '{"a":1}\n'),
    (np.float32(0.5), "0.5\n"),
])  # fmt: skip
def test_a_row_is_a_line_of_json(prediction: object, written: str) -> None:
    assert encoded(prediction, "application/jsonlines") == (written.encode(), "application/jsonlines")


def test_arrays_by_name_are_written_as_npz() -> None:
    body, _ = encoded({"a": [1, 2], "b": np.ones(1)}, "application/x-npz")
    with np.load(io.BytesIO(body), allow_pickle=False) as archive:
        assert {name: archive[name].tolist() for name in archive.files} == {"a": [1, 2], "b": [1.0]}


@pytest.mark.parametrize("given", [{"instances": [[1, 2]]}, {"inputs": [[1, 2]]}, [[1, 2]]])
def test_an_estimator_takes_rows_as_tensor_models_do(given: object) -> None:
    from evenkeel.serve.engine.backends.handler.handler_defaults import predicted

    class Estimator:
        def predict(self, x: np.ndarray) -> list[float]:  # type: ignore[type-arg]
            return [float(row.sum()) for row in x]

    assert predicted(decoded(json.dumps(given), "application/json"), Estimator(), None) == [3.0]
