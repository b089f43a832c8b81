"""What was logged so far, for tests that catch standard output: a line for a file is written by a thread."""

from __future__ import annotations

import pytest

from evenkeel.serve.contract import logline

FLUSH_S = 10.0  # on a busy machine


def logged(capfd: pytest.CaptureFixture[str]) -> str:
    logline.sink().flush(FLUSH_S)
    return capfd.readouterr().out
