"""Lines of the command channel: what is a command, what is not, and that nothing wrong is obeyed."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from evenkeel.serve.contract.commands import (
    DEADLINE_S_MAX,
    LINE_BYTES_MAX,
    Answer,
    Command,
    CommandError,
    Refusal,
    Result,
    Verb,
    answer_line,
    answer_to,
    read_answer,
    request_line,
)

NOW_S = 100.0
USE = {"id": 7, "verb": "use", "deadline_s": 101.0, "arguments": {"version": "2"}}


class Obedient:
    """Does all that it is told, and remembers it."""

    def __init__(self) -> None:
        self.obeyed: list[Command] = []

    def handle(self, command: Command, now_s: float) -> Result:
        self.obeyed.append(command)
        return {"done": command.verb}


def asked(line: bytes) -> tuple[Obedient, dict[str, Any]]:
    handler = Obedient()
    return handler, json.loads(answer_line(answer_to(line, NOW_S, handler)))


def test_a_command_in_time_is_obeyed_and_answered_with_its_id() -> None:
    handler, answer = asked(json.dumps(USE).encode())
    assert handler.obeyed == [Command(7, Verb.USE, 101.0, {"version": "2"})]
    assert answer == {"id": 7, "ok": {"done": "use"}}


def test_what_is_sent_is_what_is_read() -> None:
    command = Command(3, Verb.DRAIN, 100.5, {})
    handler, _ = asked(request_line(command))
    assert handler.obeyed == [command]


def changed(**parts: Any) -> bytes:
    return json.dumps({**USE, **parts}).encode()


@pytest.mark.parametrize(("line", "code"), [
    (b"", "malformed"),
    (b"drain", "malformed"),
    (b"[]", "malformed"),
    (b'{"id": 7', "malformed"),
    (b"\xff\xfe", "malformed"),
    (b"[" * 9000, "malformed"),
    (b'{"id": 7, "id": 7, "verb": "drain", "deadline_s": 101}', "malformed"),
    (b'{"id": 7, "verb": "drain", "deadline_s": NaN}', "malformed"),
    (b'{"id": 7, "verb": "drain", "deadline_s": 1e999}', "malformed"),
    (b'{"id": 7, "verb": "drain", "deadline_s": ' + b"9" * 400 + b"}", "malformed"),
    (changed(id=None), "malformed"),
    (changed(id=True), "malformed"),
    (changed(id=-1), "malformed"),
    (changed(id=1 << 60), "malformed"),
    (changed(id="7"), "malformed"),
    (changed(verb=None), "malformed"),
    (changed(verb=["use"]), "malformed"),
    (changed(verb="launch"), "unknown_verb"),
    (changed(verb="x" * 5000), "unknown_verb"),
    (changed(deadline_s="soon"), "malformed"),
    (changed(deadline_s=True), "malformed"),
    (changed(deadline_s=NOW_S), "late"),
    (changed(deadline_s=-5), "late"),
    (changed(deadline_s=NOW_S + DEADLINE_S_MAX + 1), "malformed"),
    (changed(arguments=None), "malformed"),
    (changed(arguments=["2"]), "malformed"),
    (changed(arguments={}), "malformed"),
    (changed(arguments={"version": 2}), "malformed"),
    (changed(arguments={"version": ""}), "malformed"),
    (changed(arguments={"version": "2", "force": True}), "malformed"),
    (changed(verb="drain"), "malformed"),
    (changed(more=1), "malformed"),
    (changed(arguments={"version": "2" * LINE_BYTES_MAX}), "too_long"),
])  # fmt: skip
def test_what_is_wrong_gets_an_error_and_changes_nothing(line: bytes, code: str) -> None:
    handler, answer = asked(line)
    assert handler.obeyed == []
    assert answer["error"]["code"] == code and answer["error"]["message"] and "ok" not in answer


def test_an_error_has_the_id_where_that_can_be_read() -> None:
    assert asked(changed(verb="launch"))[1]["id"] == 7
    assert asked(b"drain")[1]["id"] is None


def test_the_handlers_own_refusal_is_the_answer_with_its_hint() -> None:
    class Refusing:
        def handle(self, command: Command, now_s: float) -> Result:
            raise CommandError(Refusal.REFUSED, "not now", retry_after_s=2.0)

    line = answer_line(answer_to(json.dumps(USE).encode(), NOW_S, Refusing()))
    assert json.loads(line) == {"id": 7, "error": {"code": "refused", "message": "not now", "retry_after_s": 2.0}}
    with pytest.raises(CommandError, match="not now") as raised:
        read_answer(line).unwrapped()
    assert raised.value.refusal == Refusal.REFUSED and raised.value.retry_after_s == 2.0


@pytest.mark.parametrize("line", [b"", b"{}", b"[1]", b'{"id": 1, "ok": 1}', b'{"error": "no"}'])
def test_what_is_no_answer_is_said_to_be_none(line: bytes) -> None:
    with pytest.raises(CommandError) as raised:
        read_answer(line)
    assert raised.value.refusal == Refusal.MALFORMED


def test_the_longest_message_fits_into_a_line() -> None:
    line = answer_line(Answer(1, {}, CommandError(Refusal.REFUSED, "\U0001f600" * LINE_BYTES_MAX, retry_after_s=1.0)))
    assert len(line) <= LINE_BYTES_MAX and read_answer(line).error is not None


def test_whatever_bytes_come_are_answered_and_only_commands_are_obeyed() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance, good = random.Random(seed), json.dumps(USE).encode()
    for _ in range(3000):
        line = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            line[chance.randrange(len(line))] = chance.randrange(256)
        handler, answer = asked(bytes(line))
        assert ("ok" in answer) == bool(handler.obeyed)
