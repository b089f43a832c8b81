"""The sidecar's small pure decisions: authority, estimates, probes; and how busy an engine is."""

from __future__ import annotations

import os

import pytest

from evenkeel.serve.contract.lifecycle import Condition, Reason, ReplicaState, Verdict
from evenkeel.serve.contract.status_page import Engine, Main, StatusPage
from evenkeel.sidecar.http import auth, probes
from evenkeel.sidecar.http.auth import Forbidden, Unauthorized
from evenkeel.sidecar.watch.engine_load import WINDOW_S, Load
from evenkeel.sidecar.watch.ready_eta import ReadyEta, WarmupProgress, ready_in_s, replica_ready_in_s

TOKEN = "a-token-of-some-length"


@pytest.mark.parametrize("shown", [[f"Bearer {TOKEN}"], [f"bearer {TOKEN}"], [f"  Bearer   {TOKEN} "]])
def test_the_token_gives_authority(shown: list[str]) -> None:
    auth.check(shown, TOKEN)


@pytest.mark.parametrize(
    "shown", [[], [""], ["Bearer"], ["Bearer "], [TOKEN], [f"Basic {TOKEN}"], [f"Bearer {TOKEN}", f"Bearer {TOKEN}"]]
)
def test_missing_or_malformed_credentials_are_401(shown: list[str]) -> None:
    with pytest.raises(Unauthorized) as e:
        auth.check(shown, TOKEN)
    assert e.value.status == 401 and TOKEN not in e.value.message


@pytest.mark.parametrize("shown", ["wrong", TOKEN[:-1], TOKEN + "x", "ä" * 20, "\udcff"])
def test_a_wrong_token_is_403(shown: str) -> None:
    with pytest.raises(Forbidden) as e:
        auth.check([f"Bearer {shown}"], TOKEN)
    assert e.value.status == 403 and TOKEN not in e.value.message


@pytest.mark.parametrize("shown", [[], ["Bearer "], ["Bearer x"]])
def test_without_a_token_set_nobody_has_authority_over_http(shown: list[str]) -> None:
    with pytest.raises(Forbidden, match="EVENKEEL_ADMIN_TOKEN"):
        auth.check(shown, "")


TOOK = {"LOADING": 10.0, "WARMING": 4.0}


@pytest.mark.parametrize(
    ("progress", "took_s", "expected"),
    [
        (WarmupProgress(ReplicaState.READY, 5.0, 3, 3), {}, 0.0),
        # From how far warm-up has come, when nothing is known from before.
        (WarmupProgress(ReplicaState.WARMING, 2.0, 1, 4), {}, 6.0),
        (WarmupProgress(ReplicaState.WARMING, 2.0, 0, 4), {}, None),
        # From last time, until this time takes longer.
        (WarmupProgress(ReplicaState.WARMING, 1.0, 1, 4), TOOK, 3.0),
        (WarmupProgress(ReplicaState.WARMING, 6.0, 3, 4), TOOK, 2.0),
        (WarmupProgress(ReplicaState.LOADING, 4.0, 0, 0), TOOK, 10.0),
        (WarmupProgress(ReplicaState.LOADING, 99.0, 0, 0), TOOK, 4.0),
        (WarmupProgress(ReplicaState.NEW, 99.0, 0, 0), TOOK, 14.0),
        (WarmupProgress(ReplicaState.LOADING, 4.0, 0, 0), {}, None),
        (WarmupProgress(ReplicaState.FAILED, 4.0, 0, 0), TOOK, None),
        (WarmupProgress(ReplicaState.DRAINING, 4.0, 0, 0), TOOK, None),
    ],
)
def test_the_time_to_ready_is_told_from_progress_and_from_last_time(
    progress: WarmupProgress, took_s: dict[str, float], expected: float | None
) -> None:
    assert replica_ready_in_s(progress, took_s) == expected


def test_the_container_starts_with_its_last_replica_and_comes_back_with_its_first() -> None:
    assert ready_in_s(False, None, [ReadyEta(5.0, False), ReadyEta(3.0, False), ReadyEta(0.0, True)]) == 5.0
    assert ready_in_s(False, None, [ReadyEta(None, False), ReadyEta(3.0, False)]) is None
    assert ready_in_s(False, None, [ReadyEta(None, True), ReadyEta(5.0, True), ReadyEta(3.0, True)]) == 3.0
    assert ready_in_s(False, None, []) is None
    assert ready_in_s(True, None, [ReadyEta(None, True)]) == 0.0
    assert ready_in_s(False, Reason.DRAINING, [ReadyEta(3.0, False)]) is None


HOLDS, LACKS = Condition("running", True, ""), Condition("warm", False, "no warm engine")


def test_a_probe_lists_each_condition_as_kubernetes_does() -> None:
    probe = probes.ready(Verdict(False, Reason.WARMING), (HOLDS, LACKS))
    assert probe.status == 503
    expected = "[-]verdict failed: warming\n[+]running ok\n[-]warm failed: no warm engine\nreadyz check failed\n"
    assert probe.text(verbose=True) == expected == probe.text(verbose=False)


def test_a_probe_that_passes_is_short_unless_asked() -> None:
    probe = probes.ready(Verdict(True, Reason.READY), (HOLDS,))
    assert (probe.status, probe.text(verbose=False)) == (200, "ok")
    assert probe.text(verbose=True) == "[+]verdict ok\n[+]running ok\nreadyz check passed\n"


def test_the_verdict_decides_though_a_condition_has_changed_since() -> None:
    assert probes.ready(Verdict(True, Reason.READY), (LACKS,)).status == 200


@pytest.mark.parametrize(("age_s", "status"), [(0.05, 200), (9.9, 200), (10.1, 503)])
def test_alive_means_that_the_sidecar_still_looks(age_s: float, status: int) -> None:
    assert probes.live(age_s).status == status


@pytest.mark.parametrize(("ever", "status"), [(True, 200), (False, 503)])
def test_started_means_that_it_was_ready_once(ever: bool, status: int) -> None:
    assert probes.started(ever).status == status


def test_an_engine_is_busy_for_the_share_of_the_window_in_which_it_worked() -> None:
    page, load = StatusPage.create(), Load()
    page.main.count[Main.ENGINES] = 2
    for second in range(30):
        page.engine(0).value[Engine.BUSY_SUM_S] = 100.0 + 0.25 * second
        load.sample(page, 1000.0 + second)
    assert load.saturation == (0.25, 0.0)
    os.close(page.fd)


def test_a_batch_that_runs_for_long_is_work_before_it_ends() -> None:
    page, load = StatusPage.create(), Load()
    page.main.count[Main.ENGINES] = 1
    page.engine(0).value[Engine.RUN_STARTED_S] = 1000.0
    for second in range(int(WINDOW_S) + 1):
        load.sample(page, 1000.0 + second)
    assert load.saturation == (1.0,)
    os.close(page.fd)
