"""What becomes of the requests of an engine that has ended: each is run again, held until one can be, or given up.

Their inputs are still in their slots, and nobody else can write there now. Who may be to blame is decided in suspects.py.
Owner of those that are held because no engine can take them now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenkeel.serve.contract import engine_ends
from evenkeel.serve.contract.engine_ends import Ended
from evenkeel.serve.contract.lifecycle import Reason
from evenkeel.serve.contract.status_page import Front, Main
from evenkeel.serve.errors import EngineLost, PoisonedRequest
from evenkeel.serve.front.request.poison_check import Poisons
from evenkeel.serve.front.request.suspects import JUDGED_WITHIN_S, SuspectRecord, no_more, poisoned_again

if TYPE_CHECKING:
    from collections.abc import Callable

    from evenkeel.serve.contract.status_page import StatusPage
    from evenkeel.serve.errors import EvenkeelError
    from evenkeel.serve.front.request.in_flight import InFlightRequests
    from evenkeel.serve.front.request.invocation import Invocation
    from evenkeel.serve.front.request.outcomes import Outcomes
    from evenkeel.serve.front.request.slot_writer import SlotWriter
    from evenkeel.serve.front.request.suspects import LastRun
    from evenkeel.serve.front.routing.engine_channel import EngineChannel
    from evenkeel.serve.front.routing.router import Router


class Failover:
    """`held`: requests in flight that no engine has. `poisons`: those that have ended engines."""

    def __init__(
        self, page: StatusPage, place: int, in_flight: InFlightRequests, slot_writer: SlotWriter, engines: Router,
        outcomes: Outcomes, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._main, self._count = page.main, page.front(place).count
        self._in_flight, self._slot_writer, self._engines = in_flight, slot_writer, engines
        self._outcomes, self._clock = outcomes, clock
        self.held: list[Invocation] = []
        self.poisons = Poisons(page, place, slot_writer.memory)
        self.poisons.look(engines.revision, clock())

    def engine_lost(self, link: EngineChannel) -> None:
        """What may have run in its last batch is suspect: what only shared a batch with such a request, or waited behind it, is
        not refused for that."""
        orphans, run = self._in_flight.at(link), link.last_run(self._clock())
        for invocation in orphans:
            invocation.link = None
            if run.may_hold(invocation.id):
                invocation.end = run
        for invocation in sorted(orphans, key=_has_no_end):  # first those that may be refused: others may have the same bytes
            error = _cannot_run_again(invocation)
            if invocation.caller is None or error is not None:
                self.drop(invocation, error)
            else:
                self._give(invocation)

    def look(self, now_s: float) -> None:
        """Twenty times a second: whether those that are held can be given to an engine by now, or none will come back."""
        self.poisons.look(self._engines.revision, now_s)
        if self.held and self._engines.serving.up:
            self.give_held()
        if self.held and self._main.count[Main.LEAVING] == Reason.FAILED:
            for invocation in list(self.held):
                self._outcomes.refuse(invocation, EngineLost("the container gives up; its log says why", retry_after_s=1))
                self.forget(invocation)

    def give_held(self) -> None:
        held, self.held = self.held, []
        for invocation in held:
            self._give(invocation)

    def drop(self, invocation: Invocation, error: EvenkeelError | None) -> None:
        """End a request that no engine has, and tell its caller if one waits."""
        self._in_flight.remove(invocation)
        if error is not None:
            self._outcomes.refuse(invocation, error)
        self._slot_writer.release(invocation)

    def forget(self, invocation: Invocation) -> None:
        """The caller of one that no engine has is gone, or has been answered."""
        if invocation.id in self._in_flight.pending:
            self.held.remove(invocation)
            self.drop(invocation, None)

    def _give(self, invocation: Invocation) -> None:
        """Submit a request that no engine has; or hold it, or give it up."""
        if invocation.end is not None and not self._judge(invocation, invocation.end):
            return
        if self.poisons.count and self.poisons.has(invocation):
            self.drop(invocation, poisoned_again())
            return
        if invocation.crashes and not self._engines.another_is_up:
            self.held.append(invocation)
            return
        choose = self._engines.choose_for_suspect if invocation.crashes else self._engines.choose_for
        link = choose(invocation.model)
        if link is not None:
            invocation.model = self._engines.model_there(link, invocation.model)
            self._count[Front.RESUBMITTED] += min(invocation.submits, 1)  # not those that no engine has had yet
            self._in_flight.submit(invocation, link)
        elif (error := self._engines.why_never(invocation.model)) is not None:
            self.drop(invocation, error)
        else:
            self.held.append(invocation)

    def _judge(self, invocation: Invocation, end: LastRun) -> bool:
        """Whether a request that ran when its engine ended is to run again. While nobody has said why the engine ended, it is
        held."""
        ended = engine_ends.read(end.block, end.epoch)
        if ended is None:
            if self._clock() - end.lost_s < JUDGED_WITHIN_S:
                self.held.append(invocation)
                return False
            ended = Ended.UNKNOWN
        before = SuspectRecord(invocation.submits, invocation.crashes, invocation.kills)
        ran_alone = end.held_only(invocation.id)
        now = before.after(ended, end.answered, ran_alone)
        invocation.end, invocation.crashes, invocation.kills = None, now.crashes, now.kills
        error = no_more(now, ran_alone and now.crashes > before.crashes)
        if isinstance(error, PoisonedRequest):
            self.poisons.remember(invocation, self._clock())
        if error is not None:
            self.drop(invocation, error)
        return error is None


def _has_no_end(invocation: Invocation) -> bool:
    return invocation.end is None


def _cannot_run_again(invocation: Invocation) -> EvenkeelError | None:
    """Whatever ended its engine."""
    if invocation.uncounted:
        return EngineLost("the engine has gone")  # this worker asked it of that engine alone
    if invocation.stream is not None:
        return EngineLost("the engine ended in the middle of the answer; what has been sent of it cannot be taken back")
    return no_more(SuspectRecord(invocation.submits, invocation.crashes, invocation.kills)) if invocation.end is None else None
