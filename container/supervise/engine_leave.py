"""Tell an engine to finish what it has accepted and to end: by command, and by signal where that is not heard.

A command is answered, so we know that it was understood; a signal reaches an engine that has not begun to hear commands, or whose
script keeps every thread from running. Both lead to the same end, and both together too.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable

from evenkeel.container.supervise.child import Child, tell
from evenkeel.serve.contract.commands import Verb

ANSWER_S = 1.0


def ask_to_leave(child: Child, now_s: float) -> None:
    if child.link is None:
        tell(child, signal.SIGTERM)
    else:
        child.leave_asked = child.link.ask(Verb.DRAIN, now_s, ANSWER_S)


def insist(children: Iterable[Child]) -> None:
    """By signal, with those that were asked and have not answered in time."""
    for child in children:
        asked = child.leave_asked
        if asked is None or asked.answer is None:
            continue
        child.leave_asked = None
        if asked.failed and child.process is not None:
            tell(child, signal.SIGTERM)
