"""How many connections fit into the files that a process may open."""

from __future__ import annotations

import pytest

from evenkeel.serve.front.http.file_limit import OTHERS, connections


@pytest.mark.parametrize(("files", "possible"), [(128, 86), (256, 171), (512, 342), (1024, 704), (65536, 65536 - OTHERS)])
def test_of_few_files_a_third_is_for_the_rest(files: int, possible: int) -> None:
    assert connections(files) == possible


def test_more_files_never_mean_fewer_connections() -> None:
    counts = [connections(files) for files in range(64, 5000)]
    assert counts == sorted(counts)
