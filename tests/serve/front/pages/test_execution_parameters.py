"""What batch transform is told to send: by the cost of a row, the memory, the queue and the shape of the model."""

from __future__ import annotations

import pytest

from evenkeel.container.environment import BATCH_QUEUE_ROWS
from evenkeel.serve.contract.signature import Signature, TensorSpec
from evenkeel.serve.front.pages.execution_parameters import Known, parameters
from evenkeel.serve.settings import MIB, Limits

pytestmark = pytest.mark.contract("12.30")
QUICK = 1e-6


def model(columns: int = 1000, rows_axis: bool = True) -> Signature:
    spec = TensorSpec("x", "float32", (columns,))
    return Signature((spec,), (spec,), rows_axis)


def asked(known: Known, **limits: float) -> tuple[object, object, object]:
    found = parameters(known, Limits(**limits))  # type: ignore[arg-type]
    assert sorted(found) == ["BatchStrategy", "MaxConcurrentTransforms", "MaxPayloadInMB"]
    return found["MaxConcurrentTransforms"], found["BatchStrategy"], found["MaxPayloadInMB"]


def test_a_quick_model_takes_the_platforms_default_size_and_one_request_more_than_it_has_replicas() -> None:
    for engines in (1, 4):
        assert asked(Known(model(), engines, QUICK), queue_rows_max=BATCH_QUEUE_ROWS) == (engines + 1, "MULTI_RECORD", 6)


def test_requests_at_once_times_their_size_stay_below_the_platforms_bound() -> None:
    assert asked(Known(model(10_000), 31, QUICK)) == (32, "MULTI_RECORD", 3)


def test_a_costly_row_makes_requests_smaller_so_that_they_are_answered_in_time() -> None:
    """2 kB a row, 0.01 s each, a quarter of 60 s for each of two requests: 1500 rows are 2.9 MiB."""
    assert asked(Known(model(), 1, 0.01)) == (2, "MULTI_RECORD", 2)


def test_rows_too_costly_for_a_megabyte_of_them_come_one_by_one() -> None:
    assert asked(Known(model(), 1, 5.0)) == (2, "SINGLE_RECORD", 1)


def test_little_memory_makes_requests_smaller() -> None:
    assert asked(Known(model(), 1, QUICK), memory_bytes=64 * MIB) == (2, "MULTI_RECORD", 4)


def test_a_queue_of_few_rows_makes_requests_smaller() -> None:
    assert asked(Known(model(), 1, QUICK), queue_rows_max=1200) == (2, "MULTI_RECORD", 2)


def test_a_model_of_one_item_a_request_is_sent_single_records() -> None:
    assert asked(Known(model(rows_axis=False), 1, QUICK)) == (2, "SINGLE_RECORD", 6)


def test_a_handler_is_sent_lines_as_the_platform_does_by_itself() -> None:
    assert asked(Known(None, 1, 10.0)) == (2, "MULTI_RECORD", 6)
