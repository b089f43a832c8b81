"""What stands on a terminal while a model starts, once it serves, and as it ends."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from evenkeel.container.commands import ready_card, terminal_view
from evenkeel.container.commands.first_request import FirstAnswer, FirstRequest
from evenkeel.container.commands.ready_card import Serving
from evenkeel.container.commands.terminal_view import TerminalView

STATUS = {
    "models": [{"name": "digits", "version": "3", "backend": "onnx"}],
    "replicas": [{"warmup": {"golden": {"checked": 14, "passed": 14, "outputs": 4, "batches": 6}}}],
}
SERVING = Serving("localhost:8080", "http://127.0.0.1:9090", 2.51)
ASKED = (FirstRequest("application/json", b"[[1]]", None), FirstAnswer(200, "application/json", b'{"predictions": [2]}'))


def card(status: dict[str, Any], asked: Any = ASKED) -> list[str]:
    return [f"{label} {text}".strip() for label, text in ready_card.lines(SERVING, status, asked)]


def test_the_card_tells_what_serves_how_to_ask_it_and_where_its_page_is() -> None:
    assert card(STATUS) == [
        "digits 3 · onnx · 4 golden and 6 batch checks passed · ready in 2.5 s",
        "ask curl -s localhost:8080/invocations -H 'Content-Type: application/json' -d '[[1]]'",
        'gives {"predictions": [2]}',
        "page http://127.0.0.1:9090/",
        "stop Ctrl-C",
    ]


def test_a_request_that_was_not_answered_well_is_not_shown_as_one_to_paste() -> None:
    told = card(STATUS, (ASKED[0], FirstAnswer(500, "application/json", b'{"error": "no"}')))
    assert told[1] == 'ask a first request was answered with 500: {"error": "no"}' and "curl" not in "".join(told)


def test_without_a_known_request_the_card_says_how_to_give_one() -> None:
    told = card(STATUS, None)
    assert "samples/one.json" in told[1] and told[2:4] == ["[[samples]]", 'input = "samples/one.json"']
    assert told[4].startswith("try curl -s localhost:8080/invocations -H 'Content-Type: application/json' -d '[[…]]', with")


def test_what_was_never_checked_is_told_so() -> None:
    assert (
        card({"replicas": [{}, {}]})[0] == "the model · 2 replicas · no golden checks, since it has no samples · ready in 2.5 s"
    )


def test_a_comparison_of_batches_is_no_golden_check_and_a_sample_without_output_makes_none() -> None:
    bare = {"golden": {"checked": 18, "passed": 18, "outputs": 0, "batches": 18}}
    assert "· 18 batch checks passed ·" in card({"replicas": [{"warmup": bare}]})[0]
    handler = {"samples": 1, "golden": {"checked": 0, "passed": 0, "outputs": 0, "batches": 0}}
    assert "· no golden checks, since its samples have no outputs ·" in card({"replicas": [{"warmup": handler}]})[0]


# ---- the view ----------------------------------------------------------------------------------------------------------


def event(event: str, message: str = "", level: str = "info", **more: Any) -> bytes:
    told = {"time": "2026-11-29T04:28:43.906Z", "level": level, "process": "engine-0", "event": event, "message": message}
    return json.dumps({**told, **more}).encode()


SERVES = event(
    "serving", "ready", address="localhost:8080", page="http://127.0.0.1:9090", seconds=2.5, run_dir="/r", model_dir="/m"
)


@pytest.fixture
def asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal_view, "status_of", lambda run_dir: STATUS)
    monkeypatch.setattr(terminal_view, "asked", lambda *unused: ASKED)


def seen(*lines: bytes, width: int = 200, **environ: str) -> str:
    out = io.StringIO()
    view = TerminalView(Console(file=out, force_terminal=True, width=width, highlight=False, _environ=environ))
    for raw in lines:
        view.take(raw)
    view.end()
    return out.getvalue()


def test_while_it_starts_our_own_steps_are_one_line_and_warnings_and_prints_are_seen() -> None:
    text = seen(
        event("plan", "2 CPUs"), event("progress", "loading the model"), event("loaded", "digits loaded"),
        event("output", "printed by the model"), event("few_files", "few files", level="warning"), TERM="xterm",
    )  # fmt: skip
    assert "loading the model" in text and "2 CPUs" not in text and "digits loaded" not in text
    assert "engine-0: printed by the model" in text and "warning engine-0: few files" in text


def test_once_it_serves_the_card_stands_there_and_every_line_is_shown(asks: None) -> None:
    text = seen(event("progress", "loading the model"), SERVES, event("verdict", "not ready: engine_lost"), TERM="xterm")
    assert "digits 3 · onnx" in text and "not ready: engine_lost" in text[text.index("Ctrl-C") :]


def test_the_live_line_ends_with_a_load_that_fails() -> None:
    out = io.StringIO()
    view = TerminalView(Console(file=out, force_terminal=True, width=200, highlight=False, _environ={"TERM": "xterm"}))
    view.take(event("progress", "loading the model"))
    view.take(event("bad_model", "no model in /m", level="error"))
    shown = len(out.getvalue())
    assert "no model in /m" in out.getvalue()
    view.draw()
    assert len(out.getvalue()) == shown


def test_an_empty_line_that_the_model_prints_is_left_out(asks: None) -> None:
    assert "output" not in seen(SERVES, event("user_output", ""), event("output", " "), TERM="dumb").split("Ctrl-C")[1]


def test_an_end_before_it_serves_is_told() -> None:
    text = seen(event("draining", "SIGINT: finishing"), event("stopped", "every process has ended"), TERM="xterm")
    assert "SIGINT: finishing" in text and "every process has ended" in text


def test_a_line_to_paste_is_not_broken_where_the_terminal_ends(asks: None) -> None:
    text = seen(SERVES, width=20, TERM="xterm")
    assert "-d '[[1]]'\n" in text and "curl -s localhost:8080/invocations -H" in text


def test_a_terminal_without_a_cursor_gets_each_stage_once(asks: None) -> None:
    steps = [event("progress", f"warming up: {n} of 9") for n in range(9)]
    text = seen(event("progress", "loading the model"), *steps, SERVES, TERM="dumb")
    assert text.count("warming up") == 1 and text.count("loading") == 1 and "\x1b" not in text


def test_colours_are_left_out_where_they_are_not_wanted(asks: None) -> None:
    assert "\x1b[3" not in seen(SERVES, event("stuck", "x", level="error"), TERM="xterm", NO_COLOR="1")


@pytest.mark.parametrize("raw", [b"", b"Fatal Python error", b"[1]", b"{", b"\xff\xfe", b'{"event": "x"}'])
def test_a_line_of_somebody_else_is_shown_as_it_is(raw: bytes) -> None:
    assert seen(raw, TERM="xterm").strip() == raw.decode("utf-8", "replace")


def test_nothing_in_a_line_moves_the_cursor(asks: None) -> None:
    text = seen(SERVES, event("output", "\x1b[2J\x1b]0;title\x07"), TERM="dumb")
    assert "\x1b" not in text and "\x07" not in text


def test_a_traceback_follows_its_line(asks: None) -> None:
    assert "ValueError: no\n" in seen(
        SERVES, event("handler_error", "it raised", traceback="Traceback\nValueError: no"), TERM="dumb"
    )
