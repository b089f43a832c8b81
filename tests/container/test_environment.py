"""Settings: read once, validated one by one, each with its origin."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evenkeel.container import environment, token_file
from evenkeel.container.environment import Environment
from evenkeel.container.variables import FIELDS, VARIABLES, ContainerSettings, Variable
from evenkeel.serve.errors import BadSetting
from evenkeel.serve.settings import MIB
from evenkeel.serve.transport.slots import SLOT_BYTES_MAX

NUMBERS = [v for v in VARIABLES if v.is_number]
FIELD_OF = {v.name: field for field, v in FIELDS.items()}


def setting(env: Environment, variable: Variable) -> tuple[object, str]:
    """The value, and what it was set by."""
    return getattr(env.settings, FIELD_OF[variable.name]), env.origins.get(variable.name, "default")


def test_without_any_variable_everything_has_its_default() -> None:
    env = environment.read({})
    assert env.settings == ContainerSettings() and env.origins == {}
    assert all(setting(env, v) == (v.default, "default") for v in VARIABLES)
    assert env.settings.port == 8080 and env.model_dir == Path("/opt/ml/model")
    assert env.sidecar == ("127.0.0.1", 9090)


@pytest.mark.parametrize("variable", NUMBERS, ids=lambda v: v.name)
def test_a_number_is_taken_at_both_ends_of_its_range_with_its_origin(variable: Variable) -> None:
    for value in (variable.low, variable.high):
        others = {"EVENKEEL_QUIET_S": "0", "EVENKEEL_DRAIN_S": "3600"}  # which must not contradict the one at hand
        env = environment.read({**others, variable.name: f"{value:g}" if variable.kind is float else str(int(value))})
        assert setting(env, variable) == (variable.kind(value), variable.name)


@pytest.mark.parametrize("variable", NUMBERS, ids=lambda v: v.name)
def test_a_number_out_of_range_is_refused_with_its_name_and_its_range(variable: Variable) -> None:
    for value in (int(variable.low) - 1, int(variable.high) + 1):
        with pytest.raises(BadSetting) as e:
            environment.read({variable.name: str(value)})
        assert variable.name in e.value.message and f"{variable.high:g}" in e.value.message


@pytest.mark.parametrize("variable", NUMBERS, ids=lambda v: v.name)
@pytest.mark.parametrize("value", ["many", "1,5", "0x10", "nan", "inf", "1 2", "--1"])
def test_what_is_no_number_is_refused_with_its_name_and_value(variable: Variable, value: str) -> None:
    with pytest.raises(BadSetting) as e:
        environment.read({variable.name: value})
    assert variable.name in e.value.message and value in e.value.message and "\n" not in e.value.message


@pytest.mark.parametrize("variable", [v for v in NUMBERS if v.kind is int], ids=lambda v: v.name)
def test_a_whole_number_has_no_point(variable: Variable) -> None:
    with pytest.raises(BadSetting, match=variable.name):
        environment.read({variable.name: "1.5"})


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda v: v.name)
def test_an_empty_variable_is_an_unset_one(variable: Variable) -> None:
    assert setting(environment.read({variable.name: "  "}), variable) == (variable.default, "default")


@pytest.mark.parametrize(("variable", "alias"), [(v, a) for v in VARIABLES for a in v.also], ids=lambda v: getattr(v, "name", v))
def test_a_name_of_the_platform_means_the_same_and_ours_wins(variable: Variable, alias: str) -> None:
    value, ours = ("7", "8") if variable in NUMBERS else ("/models/a", "/models/b")
    if variable.name == "SAGEMAKER_PROGRAM":
        value, ours = "a.py", "b.py"
    assert setting(environment.read({alias: value}), variable) == (variable.kind(value), alias)
    both = environment.read({alias: value, variable.name: ours})
    assert setting(both, variable) == (variable.kind(ours), variable.name)


def test_a_wrong_alias_is_named_as_it_was_written() -> None:
    with pytest.raises(BadSetting, match="SAGEMAKER_MODEL_SERVER_TIMEOUT"):
        environment.read({"SAGEMAKER_MODEL_SERVER_TIMEOUT": "soon"})


def test_an_alias_that_nobody_reads_is_not_checked() -> None:
    assert environment.read({"EVENKEEL_REPLICAS": "2", "SAGEMAKER_MODEL_SERVER_WORKERS": "x"}).settings.replicas == 2


@pytest.mark.parametrize("value", ["9090", ":9090", "localhost:", "localhost:http", "localhost:70000", "localhost:-1"])
def test_an_address_needs_host_and_port(value: str) -> None:
    with pytest.raises(BadSetting, match=r"EVENKEEL_SIDECAR_ADDRESS.*HOST:PORT"):
        environment.read({"EVENKEEL_SIDECAR_ADDRESS": value})


@pytest.mark.parametrize(
    ("value", "address"), [("0.0.0.0:0", ("0.0.0.0", 0)), ("[::1]:9090", ("::1", 9090)), ("side:65535", ("side", 65535))]
)
def test_an_address_is_taken_apart(value: str, address: tuple[str, int]) -> None:
    assert environment.read({"EVENKEEL_SIDECAR_ADDRESS": value}).sidecar == address


def test_the_form_of_the_log_is_one_of_three() -> None:
    for value in ("json", "text", "auto"):
        assert environment.read({"EVENKEEL_LOG": value}).settings.log == value
    with pytest.raises(BadSetting, match="EVENKEEL_LOG='xml' must be json, text or auto"):
        environment.read({"EVENKEEL_LOG": "xml"})


@pytest.mark.parametrize("value", ["8000", "9000-8000", "a-b", "-", "8000-"])
def test_a_port_range_has_two_ends(value: str) -> None:
    with pytest.raises(BadSetting, match="SAGEMAKER_SAFE_PORT_RANGE"):
        environment.read({"SAGEMAKER_SAFE_PORT_RANGE": value})


def test_the_sidecar_port_must_lie_in_the_platforms_range() -> None:
    given = {"SAGEMAKER_SAFE_PORT_RANGE": "21000-22000"}
    with pytest.raises(BadSetting, match=r"EVENKEEL_SIDECAR_ADDRESS=127.0.0.1:9090.*21000-22000"):
        environment.read({**given, "EVENKEEL_SIDECAR_ADDRESS": "127.0.0.1:9090"})
    for port in ("21000", "22000", "0"):
        environment.read({**given, "EVENKEEL_SIDECAR_ADDRESS": f"127.0.0.1:{port}"})


def test_a_sidecar_that_nobody_placed_tries_the_ports_of_the_range_in_turn() -> None:
    given = {"SAGEMAKER_SAFE_PORT_RANGE": "21000-21002"}
    assert list(environment.read(given).sidecar_ports) == [21002, 21001, 21000]
    assert list(environment.read({**given, "EVENKEEL_SIDECAR_ADDRESS": "0.0.0.0:0"}).sidecar_ports) == [21002, 21001, 21000]
    assert environment.read({**given, "EVENKEEL_SIDECAR_ADDRESS": "0.0.0.0:21002"}).sidecar_ports == [21002]
    assert environment.read({}).sidecar_ports == [9090]


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "1", "yes"])
def test_batch_is_on_in_any_case_of_letters_and_raises_the_deadline_unless_that_was_set(text: str) -> None:
    limits = environment.read({"SAGEMAKER_BATCH": text}).limits()
    assert limits.batch and limits.request_timeout_s == 600 and limits.queue_wait_s == float("inf")
    assert environment.read({"SAGEMAKER_BATCH": text, "EVENKEEL_QUEUE_WAIT_S": "5"}).limits().queue_wait_s == 5
    assert environment.read({"SAGEMAKER_BATCH": text, "EVENKEEL_REQUEST_TIMEOUT_S": "5"}).limits().request_timeout_s == 5
    assert not environment.read({"SAGEMAKER_BATCH": "False"}).limits().batch
    with pytest.raises(BadSetting, match="SAGEMAKER_BATCH='maybe' must be true or false"):
        environment.read({"SAGEMAKER_BATCH": "maybe"})


def test_a_quiet_time_longer_than_the_drain_is_a_contradiction() -> None:
    """Nothing would be told to end before everything is killed."""
    with pytest.raises(BadSetting, match="EVENKEEL_QUIET_S"):
        environment.read({"EVENKEEL_QUIET_S": "10", "EVENKEEL_DRAIN_S": "5"})


def test_the_limits_have_the_units_that_their_names_say() -> None:
    limits = environment.read({
        "EVENKEEL_REQUEST_TIMEOUT_S": "7", "EVENKEEL_MAX_BODY_MB": "2.5", "EVENKEEL_BODY_TIMEOUT_S": "3",
        "EVENKEEL_KEEP_ALIVE_S": "9", "EVENKEEL_QUEUE_WAIT_S": "0.5", "EVENKEEL_QUEUE_ROWS": "11", "EVENKEEL_QUEUE_MB": "13",
    }).limits()  # fmt: skip
    assert (limits.request_timeout_s, limits.body_timeout_s, limits.keep_alive_s) == (7.0, 3.0, 9.0)
    assert limits.queue_wait_s == 0.5
    assert (limits.body_bytes_max, limits.queue_rows_max, limits.queue_bytes_max) == (int(2.5 * MIB), 11, 13 * MIB)


def test_every_variable_is_in_the_table_for_the_docs() -> None:
    table = environment.table()
    for variable in VARIABLES:
        assert all(f"`{name}`" in table for name in (variable.name, *variable.also)) and variable.meaning in table


def test_a_secret_is_shown_nowhere_and_handed_to_no_process_that_we_start() -> None:
    token = "a-token-of-some-length"
    env = environment.read({"EVENKEEL_ADMIN_TOKEN": token, "EVENKEEL_FRONTS": "2", "HOME": "/root"})
    assert env.settings.admin_token == token
    assert env.set_by_hand() == {"EVENKEEL_ADMIN_TOKEN": "(secret)", "EVENKEEL_FRONTS": 2}
    assert env.inherited == {"EVENKEEL_FRONTS": "2", "HOME": "/root"}


@pytest.mark.parametrize("token", ["short", "x" * 1025, "with a space in it....", "umläute-in-the-token"])
def test_a_token_that_cannot_travel_in_a_header_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(BadSetting, match="EVENKEEL_ADMIN_TOKEN must be") as e:
        environment.read({"EVENKEEL_ADMIN_TOKEN": token})
    assert token not in e.value.message


def test_the_token_may_lie_in_a_file_and_its_last_newline_is_not_part_of_it(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("  a-token-of-some-length\r\n")
    env = environment.read({"EVENKEEL_ADMIN_TOKEN_FILE": str(file)})
    assert env.settings.admin_token == "a-token-of-some-length"
    assert env.set_by_hand() == {"EVENKEEL_ADMIN_TOKEN": "(secret)", "EVENKEEL_ADMIN_TOKEN_FILE": str(file)}
    file.chmod(0o440)
    assert not token_file.is_open_to_others(file)
    file.chmod(0o444)
    assert token_file.is_open_to_others(file)


def test_a_token_in_two_places_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="are both set: choose one"):
        environment.read({"EVENKEEL_ADMIN_TOKEN_FILE": str(tmp_path / "x"), "EVENKEEL_ADMIN_TOKEN": "a-token-of-some-length"})


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "must be 16 to 1024"), (b" \n", "must be 16 to 1024"), (b"too-short", "must be 16 to 1024"), (b"two words", "must be"),
     (b"x" * 5000, "at most 4096 bytes"), (b"\xff" * 20, "must be 16 to 1024"), (None, "cannot be read: No such file")],
)  # fmt: skip
def test_a_file_that_holds_no_token_is_named_and_not_shown(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BadSetting, match="EVENKEEL_ADMIN_TOKEN_FILE=") as e:
        environment.read({"EVENKEEL_ADMIN_TOKEN_FILE": str(file)})
    assert words in e.value.message and "words" not in e.value.message and "short" not in e.value.message


def test_a_pipe_in_place_of_the_tokens_file_does_not_hold_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(BadSetting, match="must be a file"):
            environment.read({"EVENKEEL_ADMIN_TOKEN_FILE": str(path)})


def test_the_port_of_grpc_health_must_be_inside_the_safe_range_when_it_is_on() -> None:
    inside = {"SAGEMAKER_SAFE_PORT_RANGE": "9000-9100"}
    assert environment.read(inside).settings.grpc_health_port == 0
    with pytest.raises(BadSetting, match="EVENKEEL_GRPC_HEALTH_PORT=8999 is outside"):
        environment.read({**inside, "EVENKEEL_GRPC_HEALTH_PORT": "8999"})


def test_faults_on_purpose_are_off_and_a_wrong_one_stops_the_start_with_one_line() -> None:
    assert environment.read({}).settings.faults == ""
    assert environment.read({"EVENKEEL_FAULTS": "slow:rate=0.5,ms=20"}).settings.faults == "slow:rate=0.5,ms=20"
    with pytest.raises(BadSetting, match="EVENKEEL_FAULTS='crash' must say one of every=N") as e:
        environment.read({"EVENKEEL_FAULTS": "crash"})
    assert "\n" not in e.value.message


def test_no_body_may_be_larger_than_the_slot_that_it_has_to_fit() -> None:
    with pytest.raises(BadSetting, match="EVENKEEL_MAX_BODY_MB"):
        environment.read({"EVENKEEL_MAX_BODY_MB": "256"})
    assert environment.read({"EVENKEEL_MAX_BODY_MB": "255"}).limits().body_bytes_max < SLOT_BYTES_MAX


@pytest.mark.parametrize(("name", "near"), [
    ("EVENKEEL_REPLICA", "EVENKEEL_REPLICAS"), ("EVENKEEL_QUEUE_WAIT", "EVENKEEL_QUEUE_WAIT_S"),
    ("EVENKEEL_DRAIN", "EVENKEEL_DRAIN_S"), ("EVENKEEL_WHATEVER_ELSE", ""), ("EVENKEEL_XYZ", ""),
    ("EVENKEL_REPLICAS", "EVENKEEL_REPLICAS"), ("EVENKEELL_LOG", "EVENKEEL_LOG"), ("EVENEKEL_THREADS", "EVENKEEL_THREADS"),
    ("evenkeel_fronts", "EVENKEEL_FRONTS"),
])  # fmt: skip
def test_a_name_that_is_no_setting_is_told_with_the_nearest_that_is(name: str, near: str) -> None:
    assert environment.unknown({name: "1", "EVENKEEL_FRONTS": "1", "PATH": "/"}) == {name: near}


@pytest.mark.parametrize("name", ["KERNEL_VERSION", "EVEN_KEEL", "KEEL_LOG", "EVENKEELS_SERVICE_HOST", "EVENT_LOG", "HOME"])
def test_a_name_of_somebody_else_is_no_mistake(name: str) -> None:
    assert environment.unknown({name: "1"}) == {}


@pytest.mark.parametrize("name", ["EVENKEEL_PORT", "EVENKEEL_PORT_8080_TCP_ADDR", "EVENKEEL_SERVICE_HOST", "EVENKEEL_TEST_IMAGE"])
def test_what_kubernetes_sets_for_a_service_of_our_name_is_no_mistake(name: str) -> None:
    assert environment.unknown({name: "tcp://10.0.0.1:8080"}) == {}
