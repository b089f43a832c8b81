"""Which models are loaded where, in a container of many. The one place that decides loads and unloads.

How it works. Somebody wants a model: it gets a number and an engine, waits for its turn there, since an engine loads one at a
time, and is in the table from the moment its engine takes requests for it. It leaves the table before its engine is told to
let go of it. When an engine has ended, what was loaded there stays in the table, and is loaded again by its next life; what
was being loaded then is refused, for it may be what ended it. Invoking and listing never come here: fronts read the table.
Nothing here waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from evenkeel.container.models.placed_model import PlacedModel, PlacedState
from evenkeel.container.supervise.child import Child
from evenkeel.serve.contract.commands import CommandError, Later, Refusal, Result, Verb
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.model_table import ROWS_MAX, ModelRow, ModelTable
from evenkeel.serve.contract.status_page import Engine, StatusPage

LOAD_S = 240.0  # for one model, and then its engine is started anew: it loads nothing else meanwhile
UNLOAD_S = 330.0  # requests under way may take so long; the platform waits 360 s
RETRY_S = 1.0
SHOWN_CHARS = 100  # of a name


class Placement:
    """Owner of the table's rows. `engines`: those that hold the models."""

    def __init__(self, page: StatusPage, table: ModelTable, engines: Sequence[Child]) -> None:
        self._page, self._table, self._engines = page, table, {child.place: child for child in engines}
        self._models: dict[str, PlacedModel] = {}
        self._numbers = iter(range(ROWS_MAX))
        self._free: list[int] = []  # numbers that were given back
        self._generation = 0

    # ---- what is asked -----------------------------------------------------------------------------------------------

    def add(self, name: str, url: str, folder: str) -> Later:
        """Raises CommandError. Who wants what is being loaded waits for it, and hears that it is loaded already."""
        model, later = self._models.get(name), Later()
        if model is None:
            number = self._free.pop() if self._free else next(self._numbers, None)
            if number is None:
                raise CommandError(Refusal.NO_MEMORY, f"{ROWS_MAX} models are loaded, as many as there can be")
            self._models[name] = PlacedModel(name, url, folder, number, self._emptiest(), waits=[later])
            return later
        if model.leaves:
            raise CommandError(Refusal.BUSY, f"{_shown(name)} is being unloaded", retry_after_s=RETRY_S)
        if model.was_loaded:
            raise _loaded(name)
        model.waits.append(later)
        return later

    def remove(self, name: str) -> Later:
        """Raises CommandError."""
        model, later = self._models.get(name), Later()
        if model is None or model.leaves:
            raise CommandError(Refusal.NOT_LOADED, f"no model {_shown(name)} is loaded")
        if not model.was_loaded:
            raise CommandError(Refusal.BUSY, f"{_shown(name)} is being loaded", retry_after_s=RETRY_S)
        self._table.clear(model.number)
        model.leaves = True
        model.waits.append(later)
        return later

    def _emptiest(self) -> int:
        held = Counter(model.place for model in self._models.values())
        return min(self._engines, key=lambda place: (held[place], place))

    # ---- what is done ------------------------------------------------------------------------------------------------

    def tick(self, now_s: float) -> None:
        """After each sleep of the supervisor."""
        models = list(self._models.values())
        for model in models:
            self._look(model, now_s)
        loading = {model.place for model in models if model.state is PlacedState.LOADING}
        for model in models:
            if model.state is PlacedState.WAITING and model.place not in loading and self._takes(model.place):
                self._load(model, now_s)
                loading.add(model.place)

    def _takes(self, place: int) -> bool:
        child, count = self._engines[place], self._page.engine(place).count
        ready = count[Engine.STATE] == ReplicaState.READY and count[Engine.EPOCH] == child.epoch
        return child.process is not None and child.link is not None and child.link.has_room and ready

    def _load(self, model: PlacedModel, now_s: float) -> None:
        child = self._engines[model.place]
        assert child.link is not None, "it takes commands"
        self._generation += 1
        model.generation, model.epoch = self._generation, child.epoch
        model.become(PlacedState.LOADING)
        model.asked = child.link.ask(Verb.LOAD, now_s, LOAD_S, model.order().to_arguments())

    def _unload(self, model: PlacedModel, now_s: float) -> None:
        link = self._engines[model.place].link
        if link is not None and link.has_room:
            model.become(PlacedState.UNLOADING)
            arguments = {"number": model.number, "generation": model.generation}
            model.asked = link.ask(Verb.UNLOAD, now_s, UNLOAD_S, arguments)

    def _look(self, model: PlacedModel, now_s: float) -> None:
        child = self._engines[model.place]
        ended = child.process is None or child.epoch != model.epoch
        answer = model.asked.answer if model.asked is not None else None
        match model.state:
            case PlacedState.WAITING if model.leaves:  # its engine has ended, and with it what it held
                self._gone(model, {})
            case PlacedState.LOADED if ended:
                model.become(PlacedState.WAITING)
            case PlacedState.LOADED if model.leaves:
                self._unload(model, now_s)
            case PlacedState.UNLOADING if ended:
                self._gone(model, {})
            case PlacedState.UNLOADING if answer is not None:
                self._gone(model, answer.error or answer.result)
            case PlacedState.LOADING if answer is not None and answer.error is None:
                self._loaded(model, answer.result)
            case PlacedState.LOADING if ended:
                self._failed(model, CommandError(Refusal.FAILED, "the engine ended while it loaded this model"))
            case PlacedState.LOADING if answer is not None and answer.error is not None:
                if answer.error.refusal == Refusal.NO_ANSWER:
                    child.end("stuck")  # it would load nothing else any more
                    self._failed(model, CommandError(Refusal.FAILED, f"the model was not loaded within {LOAD_S:g} s"))
                else:
                    self._failed(model, answer.error)

    def _loaded(self, model: PlacedModel, result: Result) -> None:
        again = model.was_loaded
        model.become(PlacedState.LOADED)
        if model.leaves:
            return
        model.was_loaded = True
        ref = model.generation << 32 | model.number
        self._table.put(model.number, ModelRow(model.name, model.url, model.place, ref))
        log("model_loaded", f"model {_shown(model.name)} is loaded" + (" again" if again else ""), place=model.place)
        self._tell(model, result, others=_loaded(model.name))

    def _failed(self, model: PlacedModel, error: CommandError) -> None:
        if model.was_loaded and not model.leaves:
            self._table.clear(model.number)
            log("model_lost", f"model {_shown(model.name)} cannot be loaded again: {error.message}", level="error")
        self._gone(model, {} if model.leaves else error)

    def _gone(self, model: PlacedModel, outcome: Result | CommandError) -> None:
        model.become(PlacedState.GONE)
        del self._models[model.name]
        if not (isinstance(outcome, CommandError) and outcome.refusal == Refusal.NO_ANSWER):
            self._free.append(model.number)  # else its engine may still have it under that number
        self._tell(model, outcome, outcome)

    def _tell(self, model: PlacedModel, outcome: Result | CommandError, others: Result | CommandError) -> None:
        """`others`: what those hear who came when it had begun already."""
        for i, later in enumerate(model.waits):
            later.outcome = others if i else outcome
        model.waits, model.asked = [], None


def _loaded(name: str) -> CommandError:
    return CommandError(Refusal.LOADED, f"model {_shown(name)} is loaded already")


def _shown(name: str) -> str:
    return repr(name[:SHOWN_CHARS])
