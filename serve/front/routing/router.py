"""The engines as one front worker sees them: who is up, which version takes the traffic, and who is to get a request.

Owner of the links. A version is followed as soon as the supervisor has named it and an engine of it has greeted; what other
engines were given before is answered by them. Knows requests only by the number of rows that wait.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Protocol

from evenkeel.serve.contract.status_page import Engine, Front, Main, StatusPage
from evenkeel.serve.errors import EngineLost, EvenkeelError, NotReady, Overloaded
from evenkeel.serve.front.pages import execution_parameters
from evenkeel.serve.front.routing.admission import (
    Accept,
    AcceptedWaits,
    Asked,
    EngineLoad,
    Hold,
    Refuse,
    Running,
    decide,
    is_empty,
    overrun,
    row_cost,
    rows_sure,
)
from evenkeel.serve.front.routing.destination import Destination
from evenkeel.serve.front.routing.engine_channel import EngineChannel
from evenkeel.serve.front.routing.engine_reach import Reach
from evenkeel.serve.front.routing.named_models import not_loaded
from evenkeel.serve.settings import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evenkeel.serve.front.routing.engine_channel import ReplyTaker, ServedVersion
    from evenkeel.serve.front.routing.named_models import NamedModels
    from evenkeel.serve.transport.arena import Arena

_SERVING = int(Main.SERVING)
_ROW_COST, _ENGINE_ROWS = int(Engine.ROW_COST_S), int(Engine.QUEUE_ROWS)
_LARGE, _BEYOND, _BATCHES = int(Engine.QUEUE_LARGE), int(Engine.QUEUE_BEYOND), int(Engine.BATCHES)
_REVISION = int(Engine.REVISION)
_RUN_STARTED, _RUN_ROWS, _PREDICTED = int(Engine.RUN_STARTED_S), int(Engine.RUN_ROWS), int(Engine.RUN_PREDICTED_S)
AWAY_S = 1.0  # beyond the time of a look: who was away for so long has seen nothing meanwhile, and blames nobody for it


class EngineObserver(Protocol):
    """Wants to know of engines that have greeted this worker."""

    def engine_up(self, place: int, link: EngineChannel, takes_traffic: bool) -> None: ...


class EngineEvents(Protocol):
    """Has requests for engines, and takes those back that an engine had when it ended."""

    def engine_serves(self, to: Destination) -> None:
        """Requests can be given to engines there that could not before."""

    def engine_lost(self, link: EngineChannel) -> None: ...


class Router:
    """`serving`: where requests go that name no model."""

    def __init__(
        self, page: StatusPage, place: int, limits: Limits, clock: Callable[[], float], named: NamedModels | None = None
    ) -> None:
        """`named`: where there are many models. Then `serving` has the engines that are up, and no model."""
        self.named = named
        self._page, self._place, self._clock, self._limits = page, place, clock, limits
        self._count = page.front(place).count
        self._waits = AcceptedWaits.start(limits.request_timeout_s, clock(), limits.queue_wait_s)
        # Where requests were refused for their own rows: since when, and the number of batches then, while none has run.
        self._untried: dict[EngineChannel, tuple[float, int]] = {}
        self.serving = Destination()
        self._revision = page.main.count[Main.SERVING]  # of the version to which everything is sent
        self._count[Front.FOLLOWS] = self._revision
        self._sha256 = (0, "")  # the revision whose sum was learnt last, and the sum
        self.front_warmup: EngineObserver | None = None
        self._swept_s = clock()  # when it was last swept
        self._awake_s = 0.0  # since when without a gap
        self.reach = Reach(page, place, clock())
        self.links: list[EngineChannel] = []
        self._events: EngineEvents | None = None

    def connect(self, sockets: Sequence[str], arena: Arena, replies: ReplyTaker, events: EngineEvents) -> None:
        """To every engine place, for as long as this worker lives."""
        self._events = events
        counters = functools.partial(self._page.counters, self._place)
        self.links = [
            EngineChannel(path, self._page.engine(i), arena, counters, replies, owner=self) for i, path in enumerate(sockets)
        ]
        if self.named is not None:
            self.named.links = self.links

    # ---- who gets a request ------------------------------------------------------------------------------------------

    def choose(self, to: Destination, rows: int, started_s: float, waiting: int) -> EngineChannel | None:
        """The least loaded there; None: none is up. Raises what admission.py refuses with. `waiting`: the requests of this front
        that are to be answered."""
        link = to.only or min(to.up, key=_rows_of, default=None)
        if link is not None and link.rows + rows <= link.rows_sure:
            return link
        now_s, timeout_s = self._clock(), self._limits.request_timeout_s
        asked = Asked(rows, started_s + timeout_s - now_s, timeout_s, waiting)
        match decide(asked, self._load(link, len(to.up), now_s) if link is not None else None, self._waits, now_s):
            case Accept():
                return link
            case Hold():
                return None
            case Refuse(error, wait_s, many_waiting, own_rows):
                if link is not None and own_rows:
                    self._untried.setdefault(link, (now_s, link.block.count[_BATCHES]))
                else:
                    self._waits = self._waits.refused(many_waiting, now_s, wait_s)
                raise error

    def _load(self, link: EngineChannel, engines: int, now_s: float) -> EngineLoad:
        count = link.block.count
        rows, beyond = count[_ENGINE_ROWS], count[_BEYOND]
        untried_s = now_s - self._untried[link][0] if link in self._untried else 0.0
        return EngineLoad(
            engines=engines, ahead=max(link.rows - link.beyond, rows - beyond), rows=max(link.rows, rows),
            large=max(link.large, count[_LARGE]), turn_rows=link.turn_rows, row_s=link.block.value[_ROW_COST],
            running=_running(link, now_s, self._awake_since(now_s)), untried_s=untried_s)  # fmt: skip

    def choose_for(self, wanted: ServedVersion) -> EngineChannel | None:
        """For a request whose inputs lie in its slot as that model wanted them: one that serves and takes them, or else one of
        its own version, which once served."""
        if self.named is not None:
            return self.named.holder(wanted)
        fitting = [link for link in self.serving.up if link.model is not None and link.model.takes(wanted)]
        if not fitting:
            own = [link for link in self.links if link.model is not None and link.model.revision == wanted.revision]
            fitting = [link for link in own if not link.mistrusted]
        return min(fitting, key=_rows_of) if fitting else None

    def choose_for_suspect(self, wanted: ServedVersion) -> EngineChannel | None:
        """As `choose_for`, but always the same engine for all of them, in every front: the one that was started most often. So
        two suspects cannot end two replicas at once."""
        fitting = [link for link in self.serving.up if link.model is not None and link.model.takes(wanted)]
        return max(fitting, key=_starts_of) if fitting else self.choose_for(wanted)

    def model_there(self, link: EngineChannel, wanted: ServedVersion) -> ServedVersion:
        """What that engine, which was chosen for `wanted`, has of it."""
        model = link.model if self.named is None else self.named.find(wanted.name).model
        assert model is not None, "it was chosen for that"
        return model

    def why_never(self, wanted: ServedVersion) -> EvenkeelError | None:
        """Why a request that was decoded for it cannot run any more, when no engine takes it now; None: one may yet."""
        if self.named is not None and (unloaded := self.named.why_not(wanted)):
            return unloaded
        there = self.serving.up if self.named is None else self.named.find(wanted.name).model
        return EngineLost("its engine has gone, and what is loaded now takes other inputs") if there else None

    def meant(self, error: EvenkeelError, model: ServedVersion) -> EvenkeelError:
        """What a fault of an engine means here: of many models one that it does not hold any more was unloaded."""
        return not_loaded(model.name) if self.named is not None and isinstance(error, NotReady) else error

    @property
    def another_is_up(self) -> bool:
        """Whether a replica may be risked: another one would go on. Where there is only one, it has to be."""
        revision = self._revision
        replicas = sum(link.epoch > 0 and link.block.count[_REVISION] == revision for link in self.links)
        return replicas < 2 or len(self.serving.up) > 1

    def overloaded(self, message: str, kind: type[Overloaded] = Overloaded) -> Overloaded:
        """A refusal that says when the least loaded engine will have done what waits."""
        costs = [(link.rows - link.beyond) * link.block.value[_ROW_COST] for link in self.serving.up]
        return kind(message, retry_after_s=max(1, math.ceil(min(costs, default=1.0))))

    # ---- they come and go ----------------------------------------------------------------------------------------------

    def sweep(self, now_s: float, waiting: int) -> None:
        """Twenty times a second, so that no request has to ask. `waiting`: requests of this front."""
        if self._page.main.count[_SERVING] != self._revision:
            self._follow()
        self._awake_s, self._swept_s = self._awake_since(now_s), now_s
        self._look_at_waits(now_s, is_empty(waiting, len(self.serving.up)))
        self.reach.look(now_s, bool(self.serving.up))
        for link in self.links:
            link.look_again()

    def _awake_since(self, now_s: float) -> float:
        """Since when this worker has been looking without a gap. Over one the container was paused, and no batch ran on; or we
        stood still, and know nothing of it."""
        return now_s if now_s - self._swept_s > AWAY_S else self._awake_s

    def _look_at_waits(self, now_s: float, empty: bool = False) -> None:
        """What may be accepted without a look, and with one. `empty`: so few wait that the queue counts as empty."""
        up = [(link, _running(link, now_s, self._awake_s)) for link in self.serving.up if link.greeted]
        costs = [row_cost(link.block.value[_ROW_COST], running) for link, running in up]
        batch_s = max((link.turn_rows * cost_s for (link, _), cost_s in zip(up, costs, strict=True)), default=0.0)
        self._waits = self._waits.later(now_s, batch_s, empty)
        for (link, running), cost_s in zip(up, costs, strict=True):
            link.rows_sure = rows_sure(max(0.0, self._waits.least_s - overrun(running)), cost_s)
        self._untried = {link: at for link, at in self._untried.items() if link.block.count[_BATCHES] == at[1]}

    def greeted(self, link: EngineChannel) -> None:
        self._know(link)
        place = self.links.index(link)
        self.reach.greeted(place, link.epoch)
        if self.named is not None:
            self._note_up(None)
            self._look_at_waits(self._clock())
            self.reach.answered(place, link.epoch)  # it has no model yet that could be asked
            self._serves()
            return
        assert link.model is not None, "an engine of one model has it when it greets"
        if link.model.revision != self._revision:
            if self.front_warmup is not None:
                self.front_warmup.engine_up(place, link, takes_traffic=False)
            self._follow()
            return
        self._note_up(link.model)
        self._look_at_waits(self._clock())
        if self.front_warmup is not None:
            self.front_warmup.engine_up(place, link, takes_traffic=True)
        self._serves()

    def _follow(self) -> None:
        """Go over to the revision that the supervisor has named, as soon as an engine of it has greeted."""
        serving = self._page.main.count[_SERVING]
        up = [link for link in self.links if link.model is not None and link.model.revision == serving]
        if serving == self._revision or not up:
            return
        for link in up:  # a version takes the traffic when its sum is known: every reply can name it
            self._know(link)
        self._revision = self._count[Front.FOLLOWS] = serving
        self._note_up(up[0].model)
        self._serves()

    def _serves(self) -> None:
        assert self._events is not None, "engines greet those who have connected"
        self._events.engine_serves(self.serving)

    def lost(self, link: EngineChannel) -> None:
        self._note_up(self.serving.model)
        self.reach.look(self._clock(), bool(self.serving.up))  # before it is told: from now on there is a moment's grace
        self.reach.lost(self.links.index(link))
        self._follow()
        assert self._events is not None, "it was connected to"
        self._events.engine_lost(link)

    def models_changed(self) -> None:
        if self.named is not None:
            self._serves()

    def _note_up(self, model: ServedVersion | None) -> None:
        if self.named is not None:
            self.serving.serve(None, [link for link in self.links if link.greeted and not link.mistrusted])
            return
        up = [link for link in self.links if link.model is not None and link.model.revision == self._revision]
        self.serving.serve(model, [link for link in up if not link.mistrusted])

    def mistrust(self, link: EngineChannel) -> None:
        """It has been given requests, has nothing else to do, and says nothing: no more go there until it does."""
        link.mistrusted = True
        self._note_up(self.serving.model)
        self.reach.mistrusts(self.links.index(link), self._clock(), bool(self.serving.up))

    def trust(self, link: EngineChannel) -> None:
        link.mistrusted = False
        place = self.links.index(link)
        self.reach.greeted(place, link.epoch)
        self.reach.answered(place, link.epoch)
        self._note_up(self.serving.model)
        self._serves()

    # ---- what is known of them -----------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """Of the version that everything is sent to."""
        return self._revision

    def know(self) -> None:
        """Once a second: the sums of the models' files, which engines write on the status page when they have them."""
        for link in self.links:
            self._know(link)

    def _know(self, link: EngineChannel) -> None:
        model = link.model
        if model is not None and not model.starts.sha256:
            text = self._page.read_text(self.links.index(link), looks=1).get("model") or {}
            if text.get("sha256") and text.get("version") == model.version:
                self._sha256 = (model.revision, str(text["sha256"]))
            revision, sha256 = self._sha256
            if revision == model.revision and sha256:  # an engine that was started again has the same files
                model.starts.know(sha256)

    def execution(self) -> dict[str, int | str]:
        """What batch transform should send. Raises NotReady while no engine has said what it runs."""
        if self.serving.model is None:
            raise NotReady("the model is still loading or warming; /ping turns 200 when it is ready", retry_after_s=1)
        costs = [link.block.value[_ROW_COST] for link in self.serving.up] or [0.0]
        return execution_parameters.parameters(
            execution_parameters.Known(self.serving.model.signature, len(costs), max(costs)), self._limits
        )

    def close(self) -> None:
        for link in self.links:
            link.close()


def _rows_of(link: EngineChannel) -> int:
    return link.rows


def _starts_of(link: EngineChannel) -> tuple[int, str]:
    return link.epoch, link.path


def _running(link: EngineChannel, now_s: float, awake_s: float) -> Running:
    count, value = link.block.count, link.block.value
    started_s = value[_RUN_STARTED]
    return Running(count[_RUN_ROWS], now_s - max(started_s, awake_s), value[_PREDICTED]) if started_s else Running()
