"""What becomes of an endpoint: sequences of each kind of update, failures, rollbacks, and a successor at every moment."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.endpoint.control import deployment_steps, endpoint_machine
from evenkeel.endpoint.control.endpoint_machine import Life
from evenkeel.endpoint.control.endpoint_state import NEXT_STATUS, Deployment, DeploymentKind, EndpointStatus, step_status
from tests.endpoint.toy_world import START_S, created, fleet, update

IN_SERVICE, FAILED, STUCK = EndpointStatus.IN_SERVICE, EndpointStatus.FAILED, EndpointStatus.UPDATE_ROLLBACK_FAILED


def blue_green(kind: str, wait_s: int = 0, last_s: int = 0, **sizes: object) -> dict[str, object]:
    routing = {"Type": kind, "WaitIntervalInSeconds": wait_s, **sizes}
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing, "TerminationWaitInSeconds": last_s}}


CANARY = blue_green("CANARY", 60, 30, CanarySize={"Type": "INSTANCE_COUNT", "Value": 1})
LINEAR = blue_green("LINEAR", 60, 30, LinearStepSize={"Type": "CAPACITY_PERCENT", "Value": 25})
ROLLING = {"RollingUpdatePolicy": {"MaximumBatchSize": {"Type": "INSTANCE_COUNT", "Value": 2}, "WaitIntervalInSeconds": 60}}
ALL_AT_ONCE = blue_green("ALL_AT_ONCE", 0, 45)
EVERY = {"none": {}, "all at once": ALL_AT_ONCE, "canary": CANARY, "linear": LINEAR, "rolling": ROLLING}


def test_all_at_once_launches_everything_shifts_bakes_and_terminates() -> None:
    world = created()
    update(world, ALL_AT_ONCE)
    world.until(IN_SERVICE)
    assert world.told == [
        "Updating launch {1: 1.0, 2: 0.0} 2+0", "Updating bake {1: 0.0, 2: 1.0} 2+2", "InService - {2: 1.0} 0+2",
    ]  # fmt: skip
    assert world.state.config == "c2" and world.state.failure == ""


def test_a_canary_bakes_on_its_part_and_then_on_everything() -> None:
    world = created(4)
    update(world, CANARY, 4)
    began_s = world.now_s
    world.until(IN_SERVICE)
    assert world.told == [
        "Updating launch {1: 1.0, 2: 0.0} 4+0", "Updating bake {1: 0.75, 2: 0.25} 4+4", "Updating bake {1: 0.0, 2: 1.0} 4+4",
        "InService - {2: 1.0} 0+4",
    ]  # fmt: skip
    assert world.now_s == began_s + START_S + 60 + 30


def test_a_linear_update_takes_as_much_off_the_old_fleet_as_it_shifts() -> None:
    world = created(4)
    update(world, LINEAR, 4)
    world.until(IN_SERVICE)
    assert world.told == [
        "Updating launch {1: 1.0, 2: 0.0} 4+0", "Updating bake {1: 0.75, 2: 0.25} 4+4", "Updating bake {1: 0.5, 2: 0.5} 3+4",
        "Updating bake {1: 0.25, 2: 0.75} 2+4", "Updating bake {1: 0.0, 2: 1.0} 1+4", "InService - {2: 1.0} 0+4",
    ]  # fmt: skip


def test_a_rolling_update_replaces_a_batch_at_a_time() -> None:
    world = created(4)
    update(world, ROLLING, 4)
    world.until(IN_SERVICE)
    assert world.told == [
        "Updating launch {1: 1.0, 2: 0.0} 4+0", "Updating bake {1: 0.5, 2: 0.5} 4+2", "Updating launch {1: 0.5, 2: 0.5} 2+2",
        "Updating bake {1: 0.0, 2: 1.0} 2+4", "InService - {2: 1.0} 0+4",
    ]  # fmt: skip


@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
def test_an_update_never_has_fewer_in_service_than_the_smaller_fleet(config: dict[str, object]) -> None:
    world = created(4)
    update(world, config, 3)
    while world.state.status is not IN_SERVICE:
        assert world.serving() >= 3
        world.tick()


@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
def test_a_version_that_never_starts_is_rolled_back_with_the_reason(config: dict[str, object]) -> None:
    world = created(4, starts=lambda number: number == 1)
    update(world, config, 4)
    while world.state.status is not IN_SERVICE:
        assert world.serving() == 4
        world.tick()
    assert world.state.config == "c1" and "did not pass the ping health check" in world.state.failure
    assert "container exited 1 after 10 s: boom" in world.state.failure
    assert (world.count(1), world.count(2)) == (4, 0)


@pytest.mark.parametrize("config", [CANARY, LINEAR, ROLLING, ALL_AT_ONCE])
@pytest.mark.parametrize("bake", [0, 1])
def test_an_alarm_in_any_bake_brings_everything_back(config: dict[str, object], bake: int) -> None:
    world = created(4)
    update(world, config, 4, alarms=("errors",))
    assert world.state.deployment is not None
    if bake >= len(world.state.deployment.steps):
        return
    while not (world.state.deployment.phase == "bake" and world.state.deployment.at == bake):
        world.tick()
    world.firing = frozenset({"other"})
    world.tick()
    assert world.state.deployment.kind is DeploymentKind.UPDATE
    world.firing = frozenset({"errors"})
    world.tick()
    assert endpoint_machine.shares(world.state).get(2, 0.0) == 0.0  # all traffic is back at once
    world.until(IN_SERVICE)
    assert world.state.config == "c1" and "errors" in world.state.failure and (world.count(1), world.count(2)) == (4, 0)


def test_a_rollback_that_fails_leaves_the_endpoint_in_service_and_says_so() -> None:
    good = {1, 2}
    world = created(4, starts=lambda number: number in good)
    update(world, ROLLING, 4, alarms=("errors",))
    assert world.state.deployment is not None
    while not (world.state.deployment.phase == "bake" and world.state.deployment.at == 1):
        world.tick()
    good.clear()
    world.firing = frozenset({"errors"})
    world.until(STUCK)
    assert "errors" in world.state.failure and "ping health check" in world.state.failure and world.count(1) == 2


def test_an_update_that_takes_too_long_is_rolled_back() -> None:
    world = created()
    update(world, ALL_AT_ONCE, ends_s=world.now_s + START_S + 5)
    world.until(IN_SERVICE)
    assert world.state.config == "c1" and "MaximumExecutionTimeoutInSeconds" in world.state.failure


def test_a_first_version_that_never_starts_fails_the_endpoint_and_ends_its_instances() -> None:
    world = created()
    world.state = dataclasses.replace(
        world.state, status=EndpointStatus.CREATING, fleet=None,
        deployment=Deployment(DeploymentKind.CREATE, None, fleet(3), deployment_steps.launch(fleet(3)), world.now_s, world.now_s),
    )  # fmt: skip
    world.starts = lambda number: False
    world.until(FAILED)
    world.tick()
    assert world.count(3, Life.STARTING) == 0 and endpoint_machine.wanted(world.state) == {}


def test_a_start_that_hangs_has_the_time_of_its_variant() -> None:
    world = created(starts=lambda number: True if number == 1 else None)
    update(world, {})
    assert world.state.deployment is not None
    slow = fleet(2)
    slow = dataclasses.replace(slow, variants=tuple(dataclasses.replace(v, startup_s=60.0) for v in slow.variants))
    world.state = dataclasses.replace(world.state, deployment=dataclasses.replace(world.state.deployment, new=slow))
    began_s = world.now_s
    world.until(IN_SERVICE)
    assert began_s + 60 < world.now_s <= began_s + 62
    assert "within 60 s" in world.state.failure and world.state.config == "c1"


def test_scaling_changes_the_same_fleet_and_keeps_it_when_it_fails() -> None:
    world = created(2)
    assert world.state.fleet is not None

    def scale(count: int) -> None:
        assert world.state.fleet is not None
        larger = world.state.fleet.resized({"v": count}, {})
        deployment = Deployment(
            DeploymentKind.SCALE, world.state.fleet, larger, deployment_steps.launch(larger), world.now_s, world.now_s
        )
        world.state = endpoint_machine.begin(world.state, deployment, world.now_s)
        world.until(IN_SERVICE)

    scale(4)
    assert world.count(1) == 4 and world.state.failure == ""
    scale(1)
    assert world.count(1) == 1
    world.starts = lambda number: False
    scale(3)
    world.tick()
    assert "ping health check" in world.state.failure and world.state.fleet.variants[0].instances == 1 and world.count(1) == 1


@given(st.sampled_from(sorted(EVERY)), st.booleans(), st.integers(0, 400))
def test_a_successor_goes_on_from_any_moment(kind: str, is_good: bool, after: int) -> None:
    """Everything but the instances is forgotten at each look, and the end is the same as without."""
    ends = []
    for restarts in (False, True):
        world = created(4, starts=lambda number: number == 1 or is_good)
        update(world, EVERY[kind], 4)
        for _ in range(after):
            world.tick()
        world.restarts = restarts
        world.until(IN_SERVICE)
        world.tick()
        ends.append((world.state, world.told))
    assert ends[0] == ends[1]


def test_speed_shortens_waits_and_no_start() -> None:
    world = created(2, speed=60.0)
    update(world, ALL_AT_ONCE)
    began_s = world.now_s
    world.until(IN_SERVICE)
    assert START_S <= world.now_s - began_s <= START_S + 2


@pytest.mark.parametrize("status", EndpointStatus)
def test_statuses_follow_their_table(status: EndpointStatus) -> None:
    state = dataclasses.replace(created().state, status=status)
    for target in EndpointStatus:
        if target in NEXT_STATUS[status]:
            assert step_status(state, target, 5.0).status is target
        else:
            with pytest.raises(ValueError, match="illegal transition"):
                step_status(state, target, 5.0)


@pytest.mark.parametrize(
    ("size", "total", "taken"),
    [({"Type": "INSTANCE_COUNT", "Value": 1}, 4, 1), ({"Type": "CAPACITY_PERCENT", "Value": 10}, 4, 1),
     ({"Type": "CAPACITY_PERCENT", "Value": 50}, 5, 3), ({"Type": "INSTANCE_COUNT", "Value": 9}, 4, 4)],
)  # fmt: skip
def test_the_size_of_a_step_is_at_least_one_and_at_most_all(size: dict[str, object], total: int, taken: int) -> None:
    steps = deployment_steps.steps(fleet(1, total), fleet(2, total), blue_green("CANARY", 1, CanarySize=size))
    assert steps[0].share == taken / total
