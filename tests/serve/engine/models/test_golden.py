"""Golden checks: each kind of wrong answer is found, and its message names the place and the difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evenkeel.serve.engine.models.golden import BATCH_TOLERANCE, Golden, GoldenFailed, compare, not_finite, rows_differ
from tests.support.models import signature, spec

JSON = "application/json"


def test_an_answer_within_tolerance_passes() -> None:
    assert compare(b"[[0.5001]]", b"[[0.5]]", JSON, rtol=1e-3, atol=0) is None


@pytest.mark.parametrize(
    ("got", "want", "named"),
    [
        (
            b'{"predictions":[[0.1,0.7]]}',
            b'{"predictions":[[0.1,0.5]]}',
            "answer.predictions[0][1] is 0.7, expected 0.5: off by 0.2",
        ),
        (b"[[1]]", b"[[1],[2]]", "answer is"),
        (b'["cat"]', b'["dog"]', "answer[0] is 'cat', expected 'dog'"),
        (b"[NaN]", b"[0.5]", "answer[0] is nan"),
        (b"[true]", b"[false]", "answer[0]"),
        (b"[1]", b"{", "the expected output is not application/json"),
    ],
)
def test_an_answer_that_differs_is_named_with_its_place(got: bytes, want: bytes, named: str) -> None:
    assert named in str(compare(got, want, JSON, rtol=1e-3, atol=1e-5))


def test_csv_is_compared_cell_by_cell() -> None:
    assert compare(b"1.0,a\n", b"1.00001,a\n", "text/csv", 1e-3, 0) is None
    assert "answer[0][1]" in str(compare(b"1,a\n", b"1,b\n", "text/csv", 1e-3, 0))


def test_a_failed_check_raises_and_is_counted_as_checked_only() -> None:
    judge = Golden()
    judge.judge("sample a", None)
    with pytest.raises(GoldenFailed, match=r"golden check failed: sample b: off by 2"):
        judge.judge("sample b", "off by 2")
    assert judge.to_json() == {"checked": 2, "passed": 1, "outputs": 0, "batches": 0}


ONE = signature([spec("x", 2)], [spec("y", 2)])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_with_its_output_and_place(bad: float) -> None:
    said = str(not_finite([np.array([[1, 2], [3, bad]], np.float32)], ONE))
    assert "'y'" in said and "[1, 1]" in said and "allow_nan" in said


def test_nan_passes_where_the_output_allows_it() -> None:
    allowed = signature([spec("x", 2)], [spec("y", 2, allow_nan=True)])
    assert not_finite([np.array([[np.nan, 1]], np.float32)], allowed) is None


def test_a_bfloat16_that_is_infinite_is_seen_through_its_bits() -> None:
    bits = signature([spec("x", 1)], [spec("y", 1, dtype="bfloat16")])
    assert "'y'" in str(not_finite([np.array([[0x7F80]], np.uint16)], bits))
    assert not_finite([np.array([[0x3F80]], np.uint16)], bits) is None


def differ(together: Any, alone: Any, dtype: str = "float32", tolerance: float | None = None) -> str | None:
    stored = "uint16" if dtype == "bfloat16" else object if dtype == "string" else dtype
    one = signature([spec("x", 2)], [spec("y", "n", dtype=dtype)])
    return rows_differ([np.array(together, stored)], [[np.array([row], stored)] for row in alone], one, tolerance)


def test_a_batch_that_gives_what_its_rows_give_passes_in_any_repetition() -> None:
    assert differ([[1, 2], [3, 4], [1, 2], [3, 4]], [[1, 2], [3, 4]]) is None


def test_rows_that_reach_each_other_are_named_with_row_output_values_and_difference() -> None:
    said = str(differ([[1, 2], [3, 4.5]], [[1, 2], [3, 4]]))
    for part in ("rows depend on each other", "row 1 of a batch of 2", "'y'", "4.5 at [1], alone 4", "off by 0.5", "rows_depend"):
        assert part in said, said


def test_rounding_passes_and_the_bound_goes_by_the_largest_value_of_the_output() -> None:
    assert differ([[1000, 1.0 + 0.9 * BATCH_TOLERANCE * 1000]], [[1000, 1.0]]) is None
    assert differ([[1000, 1.0 + 1.1 * BATCH_TOLERANCE * 1000]], [[1000, 1.0]]) is not None


def test_outputs_that_are_all_next_to_nothing_are_not_compared_to_the_last_digit() -> None:
    assert differ([[1e-7, 0]], [[2e-7, 0]]) is None


def test_the_model_may_set_the_tolerance() -> None:
    assert differ([[1.0, 1.05]], [[1.0, 1.0]], tolerance=0.1) is None
    assert differ([[1.0, 1.0001]], [[1.0, 1.0]], tolerance=0.0) is not None


def test_a_row_that_is_one_text_is_compared_too() -> None:
    """A classifier's labels: indexing a column of strings gives no array."""
    one = signature([spec("x", 2)], [spec("y", dtype="string")])
    labels = [[np.array([text], object)] for text in ("cat", "dog")]
    assert rows_differ([np.array(["cat", "dog"], object)], labels, one, None) is None
    said = rows_differ([np.array(["cat", "cow"], object)], labels, one, None)
    assert said is not None and "cow" in said and "dog" in said


def test_nan_in_both_is_equal_and_in_one_is_not() -> None:
    assert differ([[np.nan, 1]], [[np.nan, 1]]) is None
    assert differ([[np.nan, 1]], [[2, 1]]) is not None
    assert differ([[2, 1]], [[np.inf, 1]]) is not None


def test_16_bits_may_differ_by_more() -> None:
    assert differ([[1.0, 1.01]], [[1.0, 1.0]], "float16") is None
    assert differ([[0x3F80, 0x3F81]], [[0x3F80, 0x3F80]], "bfloat16") is None
    assert differ([[0x3F80, 0x4000]], [[0x3F80, 0x3F80]], "bfloat16") is not None


def test_few_integers_and_texts_must_be_exact_and_of_many_one_in_a_hundred_may_differ() -> None:
    assert differ([[1, 2]], [[1, 3]], "int64") is not None
    assert "'a' at" in str(differ([["a"]], [["b"]], "string")) or "a at" in str(differ([["a"]], [["b"]], "string"))
    picture = list(range(200))
    assert differ([[7, *picture[1:]]], [picture], "uint8") is None
    assert differ([[7, 7, 7, *picture[3:]]], [picture], "uint8") is not None


def test_a_row_of_another_shape_is_named() -> None:
    assert "the shape [3], alone [2]" in str(differ([[1, 2, 3]], [[1, 2]]))
