from __future__ import annotations

import numpy as np
import pytest
from model_folder import Folder

from evenkeel.serve.engine.backends.base import LoadOptions
from evenkeel.serve.engine.backends.echo import load
from evenkeel.serve.errors import BadModel

ONE = LoadOptions(threads=1)


def test_without_a_manifest_it_takes_rows_of_any_width(folder: Folder) -> None:
    backend = load(folder.manifest({"backend": "echo"}), ONE)
    assert [s.describe(rows_axis=True) for s in backend.signature.inputs] == ["x: float32[rows, n]"]
    assert backend.signature.inputs == backend.signature.outputs


def test_it_returns_what_it_was_given(folder: Folder) -> None:
    backend = load(folder.manifest({"backend": "echo"}), ONE)
    x = np.ones((2, 3), np.float32)
    assert backend.run([x])[0] is x


def test_declared_inputs_are_also_its_outputs(folder: Folder) -> None:
    said = {"backend": "echo", "inputs": [{"name": "a", "dtype": "string", "shape": ["rows", 2]},
                                          {"name": "b", "dtype": "int64", "shape": ["rows"]}]}  # fmt: skip
    signature = load(folder.manifest(said), ONE).signature
    assert [s.name for s in signature.outputs] == ["a", "b"]
    assert signature.rows_axis


def test_without_a_rows_axis_in_the_manifest_a_request_is_one_item(folder: Folder) -> None:
    said = {"backend": "echo", "inputs": [{"name": "a", "shape": [2, 2]}]}
    assert not load(folder.manifest(said), ONE).signature.rows_axis


def test_outputs_that_differ_from_the_inputs_are_refused(folder: Folder) -> None:
    said = {"backend": "echo", "outputs": [{"name": "y", "shape": ["rows", 1]}]}
    with pytest.raises(BadModel, match="outputs: the echo backend returns its inputs"):
        load(folder.manifest(said), ONE)
