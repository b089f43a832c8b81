"""Models of tables: one input of [rows, 1] a column, as skl2onnx makes them, and classes with their scores as maps."""

from __future__ import annotations

import json

import numpy as np
import pytest

from evenkeel.serve.codec.codec import Form
from evenkeel.serve.codec.json_document import JsonDocument
from evenkeel.serve.codec.json_lines import JsonLines
from evenkeel.serve.contract.signature import Signature, TensorSpec
from evenkeel.serve.errors import BadShape
from evenkeel.serve.transport.layout import Layout
from tests.serve.codec.samples import decode

TABLE = Signature((TensorSpec("age", "float32", (1,)), TensorSpec("job", "string", (1,))), (TensorSpec("y", "float32", (1,)),))
COLUMN = Signature((TensorSpec("age", "float32", (1,)),), (TensorSpec("y", "float32", (1,)),))
SCORES = TensorSpec("scores", "float32", (2,), keys=("clerk", "baker"))
CLASSES = Signature((TensorSpec("x", "float32", (2,)),), (TensorSpec("label", "int64", ()), SCORES))
VALUES = (np.array([1, 0]), np.array([[0.25, 0.75], [1, 0]], np.float32))
JSON = "application/json"


@pytest.mark.parametrize(
    "document",
    [{"instances": [{"age": 39, "job": "clerk"}, {"age": 50.5, "job": "baker"}]},
     {"instances": [{"age": [39], "job": "clerk"}, {"age": 50.5, "job": ["baker"]}]},
     {"inputs": {"age": [39, 50.5], "job": ["clerk", "baker"]}}],
)  # fmt: skip
def test_a_row_of_a_table_is_named_values(document: object) -> None:
    age, job = decode(JSON, json.dumps(document).encode(), TABLE).arrays
    assert age.tolist() == [[39.0], [50.5]] and job.tolist() == [["clerk"], ["baker"]]


@pytest.mark.parametrize(
    "document", [{"instances": [{"age": 39}, {"age": 50}]}, {"instances": [39, 50]}, {"inputs": {"age": [39, 50]}}]
)
def test_one_column_alone_takes_plain_values(document: object) -> None:
    assert decode(JSON, json.dumps(document).encode(), COLUMN).arrays[0].tolist() == [[39.0], [50.0]]


def test_a_wrong_value_of_a_table_is_named() -> None:
    with pytest.raises(BadShape, match=r"instance 1: input 'age'.*float32 expected, got the string 'old'"):
        decode(JSON, b'{"instances": [{"age": 1, "job": "a"}, {"age": "old", "job": "b"}]}', TABLE)


def test_classes_and_scores_are_maps_in_json() -> None:
    first, second = {"label": 1, "scores": {"clerk": 0.25, "baker": 0.75}}, {"label": 0, "scores": {"clerk": 1.0, "baker": 0.0}}
    assert json.loads(JsonDocument().encode(VALUES, CLASSES, Form.INSTANCES)) == {"predictions": [first, second]}
    assert [
        json.loads(line) for line in JsonLines("application/jsonlines").encode(VALUES, CLASSES, Form.INSTANCES).splitlines()
    ] == [first, second]
    columns = json.loads(JsonDocument().encode(VALUES, CLASSES, Form.COLUMNS))["outputs"]
    assert columns == {"label": [1, 0], "scores": [first["scores"], second["scores"]]}


def test_scores_alone_are_maps_too_and_take_no_short_way() -> None:
    alone = Signature(CLASSES.inputs, (SCORES,))
    assert json.loads(JsonDocument().encode(VALUES[1:], alone, Form.INSTANCES, finite=True)) == {
        "predictions": [{"clerk": 0.25, "baker": 0.75}, {"clerk": 1.0, "baker": 0.0}]}  # fmt: skip
    assert not Layout(alone.outputs, rows_axis=True).single
    assert Signature.from_json(json.loads(json.dumps(alone.to_json()))) == alone
