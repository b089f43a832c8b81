"""What a person types: help that teaches, errors in one line, options that stand for settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evenkeel.container import environment
from evenkeel.container.commands import serve_command, serve_options
from evenkeel.container.commands.command_line import VERBS, main
from evenkeel.container.environment import Given
from evenkeel.serve.errors import BadSetting


@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"judge", "endpoint"}))
def test_the_help_of_a_command_has_an_example_and_its_exit_codes(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"], {}) == 0
    said = capsys.readouterr().out
    assert f"\n    evenkeel {verb}" in said and "Exit codes: 0 " in said


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"], {}) == 0
    said = capsys.readouterr().out
    assert all(f"│ {verb} " in said for verb in VERBS) and "evenkeel serve my-model" in said


def test_nothing_typed_is_answered_by_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], {}) == 2
    assert "evenkeel serve my-model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["srve"], 'Did you mean "serve"?'),
        (["drain", "--prot", "1"], "Did you mean --port?"),
        (["drain", "--port", "x"], '"x"'),
        (["check"], "FOLDER"),
        (["serve", "a", "b"], "evenkeel serve takes no such word as 'b'; see"),
        (["drain", "8080"], "evenkeel drain takes no such word as '8080'; see"),
        (["serve", "--port"], "--port requires an argument"),
    ],
)
def test_a_wrong_word_is_told_in_one_line_that_leads_to_help(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words, {}) == 2
    said = capsys.readouterr().err
    assert said.startswith("evenkeel: ") and said.count("\n") == 1 and told in said and "--help" in said


# ---- serve -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Given]]:
    """What serving would begin with."""
    begun: list[dict[str, Given]] = []

    def begin(environ: Any, given: dict[str, Given]) -> int:
        begun.append(given)
        return 0

    monkeypatch.setattr(serve_command, "main", begin)
    return begun


def test_options_of_serve_stand_for_settings(served: list[dict[str, Given]]) -> None:
    words = ["serve", ".", "--port", "9000", "--page", "9091", "--replicas", "2", "--set", "drain_s=5", "--set=EVENKEEL_LOG=text"]
    assert main(words, {}) == 0
    env = environment.read({"SAGEMAKER_BIND_TO_PORT": "1", "EVENKEEL_DRAIN_S": "9"}, served[0])
    assert (env.model_dir, env.settings.port, env.sidecar) == (Path("."), 9000, ("127.0.0.1", 9091))
    assert (env.settings.replicas, env.settings.drain_s, env.settings.log) == (2, 5.0, "text")
    assert env.origins["SAGEMAKER_BIND_TO_PORT"] == "--port"


def test_a_page_may_be_given_with_its_host() -> None:
    assert serve_options.given(None, None, "0.0.0.0:9091", None, ())["EVENKEEL_SIDECAR_ADDRESS"].value == "0.0.0.0:9091"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("replica=2", "did you mean EVENKEEL_REPLICAS"),
        ("nothing_like_it=2", "docs/settings.md"),
        ("xyz=3", "xyz is no setting: docs/settings.md"),
        ("replicas", "must be NAME=VALUE"),
        ("admin_token=a-token-of-some-length", "EVENKEEL_ADMIN_TOKEN_FILE"),
    ],
)
def test_set_knows_the_settings(text: str, told: str, served: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "m", "--set", text], {}) == 1
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1 and served == []


def test_a_secret_is_not_repeated(served: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    main(["serve", "m", "--set", "admin_token=a-token-of-some-length"], {})
    assert "a-token" not in "".join(capsys.readouterr())


def test_a_wrong_value_is_told_by_the_name_of_its_option() -> None:
    with pytest.raises(BadSetting, match="--port=99999 must be between 0 and 65535"):
        environment.read({}, serve_options.given(None, 99999, None, None, ()))
    with pytest.raises(BadSetting, match="--set replicas='two' must be a whole number"):
        environment.read({}, serve_options.given(None, None, None, None, ("replicas=two",)))


def test_one_port_cannot_be_that_of_the_page_too() -> None:
    for page in ("9000", "localhost:9000"):
        with pytest.raises(BadSetting, match="--port and --page are the same, 9000"):
            serve_options.given(None, 9000, page, None, ())
    assert serve_options.given(None, 0, "0", None, ())["SAGEMAKER_BIND_TO_PORT"].value == "0", "any port, twice"


@pytest.mark.parametrize("verb", ["serve", "check", "pack"])
def test_a_folder_that_is_none_is_told_by_what_is_there(
    verb: str, tmp_path: Path, served: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.tar.gz").touch()
    (tmp_path / "model.onnx").touch()
    for name, told in (
        ("nowhere", "does not exist"),
        ("model.tar.gz", "unpack it"),
        ("model.onnx", "name the one that holds it"),
    ):
        assert main([verb, str(tmp_path / name)], {}) == 1
        said = capsys.readouterr().err
        assert told in said and name in said and said.count("\n") == 1
    assert served == []
