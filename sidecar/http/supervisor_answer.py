"""Ask the supervisor on behalf of somebody who asked us over HTTP; what it does not do becomes one of our errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evenkeel.serve.contract.command_client import Asks
from evenkeel.serve.contract.commands import CommandError, Refusal, Result, Verb
from evenkeel.serve.errors import EvenkeelError, NotReady

ANSWER_S_MAX = 5.0  # it answers within milliseconds, unless a disk lets it wait


class NotPossible(EvenkeelError):
    """Not in evenkeel.serve.errors on purpose: its families are numbered for the data plane."""

    code, status = "conflict", 409


def answer_of(supervisor: Asks, verb: Verb, arguments: Mapping[str, Any], otherwise: str) -> Result:
    """Raises NotPossible for what it refuses, and NotReady when it did not come to it, or no answer came: then `otherwise` says
    how to learn more."""
    try:
        return supervisor.ask(verb, arguments, ANSWER_S_MAX)
    except CommandError as e:
        if e.refusal == Refusal.REFUSED:
            raise NotPossible(e.message) from e
        if e.refusal == Refusal.NO_ANSWER:
            raise NotReady(f"the supervisor has not answered; {otherwise}") from e
        raise NotReady(f"the supervisor has done nothing: {e.message}; ask again") from e
