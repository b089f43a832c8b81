"""What our processes can be told: one JSON object a line, each request with an id, a verb and a deadline. Pure.

    {"id": 7, "verb": "use", "deadline_s": 8123.4, "arguments": {"version": "2"}}
    {"id": 7, "ok": {"how": "beside", "why": "version 2 loads beside the old one: ..."}}
    {"id": 7, "error": {"code": "late", "message": "...", "retry_after_s": 1.0}}

A deadline is a moment of CLOCK_MONOTONIC, one clock for all processes of a machine: a command that waited beyond it is not
obeyed, for nobody waits for its answer any more. Whatever is wrong with a line is said in an answer, and changes nothing. An
answer to a line whose id cannot be read has the id null. The sockets are in command_peer.py and command_client.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeGuard

from evenkeel.serve.contract import model_order
from evenkeel.serve.errors import EvenkeelError

LINE_BYTES_MAX = 16 << 10  # of a request and of an answer, with its newline
DEADLINE_S_MAX = 600.0  # from now on; a model may take minutes to load
ID_MAX = (1 << 53) - 1  # every reader of JSON has whole numbers up to there
NUMBER_MAX = 1e15  # of seconds; JSON has numbers that no float can be

Result = dict[str, Any]


class Verb(StrEnum):
    USE = "use"  # the supervisor: serve another version of the model
    DRAIN = "drain"  # the supervisor and engines: finish what was accepted, and end
    DESCRIBE = "describe"  # engines: what is loaded there
    LOAD = "load"  # engines: load this model, and answer when it takes requests
    UNLOAD = "unload"  # engines: take nothing more for this model, and answer when its memory is free
    ADD_MODEL = "add_model"  # the supervisor of many models: have this one loaded
    REMOVE_MODEL = "remove_model"  # the supervisor of many models: have it unloaded


ARGUMENTS: Mapping[Verb, Mapping[str, type]] = {
    Verb.USE: {"version": str},
    Verb.DRAIN: {},
    Verb.DESCRIBE: {},
    Verb.LOAD: model_order.REQUIRED,
    Verb.UNLOAD: {"number": int, "generation": int},
    Verb.ADD_MODEL: {"name": str, "url": str, "folder": str},
    Verb.REMOVE_MODEL: {"name": str},
}
OPTIONAL_ARGUMENTS: Mapping[Verb, Mapping[str, type]] = {Verb.LOAD: model_order.OPTIONAL}


class Refusal(StrEnum):
    """Why a command was not obeyed."""

    MALFORMED = "malformed"  # no request, or arguments that the verb does not have
    TOO_LONG = "too_long"
    UNKNOWN_VERB = "unknown_verb"  # nowhere, or not here
    LATE = "late"  # its deadline had passed when it was read
    BUSY = "busy"  # too many commands or connections at once
    REFUSED = "refused"  # understood, and not possible now
    FAILED = "failed"  # tried, and it did not work: what was there before is as it was
    NO_MEMORY = "no_memory"  # as failed, and with more memory it might work
    LOADED = "loaded"  # a model of that name is loaded already
    NOT_LOADED = "not_loaded"  # no model of that name is
    NO_ANSWER = "no_answer"  # said by the one who asked: nothing came back in time


class CommandError(EvenkeelError):
    """A command that was not obeyed. `refusal` is one of ours, or a word that only a newer process knows."""

    def __init__(self, refusal: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Command:
    id: int
    verb: Verb
    deadline_s: float
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """`error` None: it was obeyed."""

    id: int | None
    result: Result
    error: CommandError | None = None

    def unwrapped(self) -> Result:
        """Raises CommandError."""
        if self.error is not None:
            raise self.error
        return self.result


@dataclass(slots=True, eq=False)
class Later:
    """What comes of a command that takes its time. `outcome` is set once, from any thread; `id` by whom it is answered."""

    outcome: Result | CommandError | None = None
    id: int = 0

    def answer(self) -> Answer | None:
        """None: it is not over yet."""
        outcome = self.outcome
        if outcome is None:
            return None
        return Answer(self.id, {}, outcome) if isinstance(outcome, CommandError) else Answer(self.id, outcome)


class CommandHandler(Protocol):
    """Obeys the verbs that it knows."""

    def handle(self, command: Command, now_s: float) -> Result | Later:
        """Raises CommandError, with nothing changed."""


def answer_to(line: bytes, now_s: float, handler: CommandHandler) -> Answer | Later:
    """Obey the request in this line, if it is one and in time."""
    data: Any = None
    try:
        data = _json_object(line)
        command = _command(data)
        _check_deadline(command, now_s)
        result = handler.handle(command, now_s)
        if isinstance(result, Later):
            result.id = command.id
            return result
        return Answer(command.id, result)
    except CommandError as e:
        return Answer(_id(data), {}, e)


def busy(line: bytes, message: str, retry_after_s: float) -> Answer:
    """For one that came while too much else did."""
    try:
        id = _id(_json_object(line))
    except CommandError:
        id = None
    return Answer(id, {}, CommandError(Refusal.BUSY, message, retry_after_s=retry_after_s))


def unknown_here(verb: Verb) -> CommandError:
    return CommandError(Refusal.UNKNOWN_VERB, f"{verb} is no command for this process")


def request_line(command: Command) -> bytes:
    """Raises CommandError where it is too long to be sent."""
    line = _line({"id": command.id, "verb": command.verb, "deadline_s": command.deadline_s, "arguments": command.arguments})
    if len(line) > LINE_BYTES_MAX:
        raise _too_long()
    return line


def answer_line(answer: Answer) -> bytes:
    if answer.error is None:
        line = _line({"id": answer.id, "ok": answer.result})
        assert len(line) <= LINE_BYTES_MAX, "a handler's result is small"
        return line
    error = {"code": answer.error.refusal, "message": answer.error.message[: LINE_BYTES_MAX // 16]}  # at most 12 bytes each
    hint = {} if answer.error.retry_after_s is None else {"retry_after_s": answer.error.retry_after_s}
    return _line({"id": answer.id, "error": {**error, **hint}})


def read_answer(line: bytes) -> Answer:
    """Raises CommandError (malformed) for what is no answer."""
    data = _json_object(line)
    result, error = data.get("ok"), data.get("error")
    if isinstance(result, dict):
        return Answer(_id(data), result)
    if not isinstance(error, dict):
        raise CommandError(Refusal.MALFORMED, "an answer has `ok` or `error`")
    hint = error.get("retry_after_s")
    retry_after_s = float(hint) if _is_number(hint) else None
    return Answer(_id(data), {}, CommandError(str(error.get("code")), str(error.get("message")), retry_after_s=retry_after_s))


def _json_object(line: bytes) -> dict[str, Any]:
    if len(line) > LINE_BYTES_MAX:
        raise _too_long()
    try:
        data = _decode(line.decode())
    except (ValueError, RecursionError) as e:
        raise CommandError(Refusal.MALFORMED, f"no JSON: {str(e)[:200] or type(e).__name__}") from e
    if not isinstance(data, dict):
        raise CommandError(Refusal.MALFORMED, "a command is a JSON object")
    return data


def _command(data: Mapping[str, Any]) -> Command:
    extra = data.keys() - {"id", "verb", "deadline_s", "arguments"}
    if extra:
        raise CommandError(Refusal.MALFORMED, f"a command has no {', '.join(sorted(extra))[:200]}")
    id, deadline_s = _id(data), data.get("deadline_s")
    if id is None:
        raise CommandError(Refusal.MALFORMED, f"`id` must be a whole number from 0 to {ID_MAX}")
    if not _is_number(deadline_s):
        raise CommandError(Refusal.MALFORMED, "`deadline_s` must be a moment of the monotonic clock, in seconds")
    verb = _verb(data.get("verb"))
    return Command(id, verb, deadline_s, _arguments(verb, data.get("arguments", {})))


def _verb(word: object) -> Verb:
    if not isinstance(word, str):
        raise CommandError(Refusal.MALFORMED, "`verb` must be a word")
    if word not in ARGUMENTS:
        raise CommandError(Refusal.UNKNOWN_VERB, f"there is no command {word[:100]!r}; there are {', '.join(ARGUMENTS)}")
    return Verb(word)


def _arguments(verb: Verb, arguments: object) -> Mapping[str, Any]:
    types, optional = ARGUMENTS[verb], OPTIONAL_ARGUMENTS.get(verb, {})
    kinds: dict[str, type] = {**types, **optional}
    fits = isinstance(arguments, dict) and types.keys() <= arguments.keys() <= kinds.keys()
    if isinstance(arguments, dict) and fits and all(_is_a(kinds[name], value) for name, value in arguments.items()):
        return arguments
    named = [*_named(types, ""), *_named(optional, "; may be left out")]
    raise CommandError(Refusal.MALFORMED, f"the arguments of {verb} are: {', '.join(named) or 'none'}")


def _named(types: Mapping[str, type], more: str) -> list[str]:
    return [f"{name} ({kind.__name__}, {_BOUND[kind]}{more})" for name, kind in types.items()]


def _is_a(kind: type, value: object) -> bool:
    """No text is no name: it would be taken for the absence of a wish."""
    if type(value) is int:
        return kind is int and 0 <= value <= model_order.NUMBER_MAX
    return type(value) is kind and value != ""


_BOUND: Mapping[type, str] = {str: "not empty", int: f"0 to {model_order.NUMBER_MAX}"}


def _check_deadline(command: Command, now_s: float) -> None:
    if command.deadline_s <= now_s:
        raise CommandError(Refusal.LATE, f"{command.verb} came {now_s - command.deadline_s:.3f} s after its deadline")
    if command.deadline_s > now_s + DEADLINE_S_MAX:
        raise CommandError(Refusal.MALFORMED, f"`deadline_s` may lie at most {DEADLINE_S_MAX:g} s ahead")


def _id(data: object) -> int | None:
    id = data.get("id") if isinstance(data, dict) else None
    return id if type(id) is int and 0 <= id <= ID_MAX else None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -NUMBER_MAX < value < NUMBER_MAX


def _too_long() -> CommandError:
    return CommandError(Refusal.TOO_LONG, f"a line has at most {LINE_BYTES_MAX} bytes")


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A key given twice would leave it to chance which one counts."""
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError("a key is given twice")
    return data


def _line(data: Mapping[str, Any]) -> bytes:
    return _encode(data).encode() + b"\n"


# Ours: where user code runs it may replace json.dumps.
_encode = json.JSONEncoder().encode
_decode = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_no_doubles).decode
