"""What is said of an engine's end decides whom fronts may blame for it."""

from __future__ import annotations

import signal

import pytest

from evenkeel.serve.contract import engine_ends
from evenkeel.serve.contract.engine_ends import Ended
from evenkeel.serve.contract.process_setup import EXIT_DEVICE
from evenkeel.serve.contract.status_page import RESTART_REASONS


@pytest.mark.parametrize("reason", RESTART_REASONS)
def test_an_engine_that_we_kill_is_blamed_on_a_request_only_where_that_did_not_end(reason: str) -> None:
    told = {"stuck": Ended.STUCK, "out_of_memory": Ended.OUT_OF_MEMORY, "leak": Ended.ASKED}
    assert engine_ends.how(-signal.SIGKILL, reason) == told.get(reason, Ended.KILLED)


@pytest.mark.parametrize("code", [1, EXIT_DEVICE, -signal.SIGSEGV, -signal.SIGABRT])
def test_an_engine_that_ends_by_itself_may_have_been_ended_by_what_it_ran(code: int) -> None:
    assert engine_ends.how(code, "signal" if code < 0 else "exit") is Ended.BY_ITSELF
