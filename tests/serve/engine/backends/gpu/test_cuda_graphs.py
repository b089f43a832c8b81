"""Which CUDA graph is used, and whether what it gave is what it should be: the part that knows no framework and no device."""

from __future__ import annotations

import numpy as np
import pytest

from evenkeel.serve.engine.backends.gpu.cuda_graphs import Timed, alike, chosen

FAST = [Timed(1, 1.0, 0.1), Timed(2, 1.1, 0.2), Timed(4, 1.2, 0.4), Timed(8, 1.4, 1.3)]


@pytest.mark.parametrize(("rows", "at"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, None), (6, None), (7, 3), (8, 3), (9, None)])
def test_a_batch_between_two_sizes_takes_the_larger_graph_only_where_that_is_faster(rows: int, at: int | None) -> None:
    assert chosen(rows, FAST) == at


def test_without_any_graph_there_is_none_to_choose() -> None:
    assert chosen(3, []) is None


@pytest.mark.parametrize(
    ("got", "want", "same"),
    [
        ([1.0, 2.0], [1.0, 2.0], True),
        ([1.0, 2.019], [1.0, 2.0], True),
        ([1.0, 2.03], [1.0, 2.0], False),
        ([1.0, np.nan], [1.0, np.nan], True),
        ([1.0, 2.0], [1.0, np.nan], False),
        ([np.nan, 2.0], [1.0, 2.0], False),
        ([np.inf, 2.0], [-np.inf, 2.0], False),
        ([0.0], [0.0], True),
        ([], [], True),
        ([1.0], [1.0, 2.0], False),
    ],
)
def test_a_recording_must_give_what_the_program_gives(got: list[float], want: list[float], same: bool) -> None:
    assert alike([np.array(got)], [np.array(want)]) is same


def test_whole_numbers_must_be_equal() -> None:
    assert alike([np.array([100])], [np.array([100])]) and not alike([np.array([100])], [np.array([101])])
