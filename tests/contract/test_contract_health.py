"""The Open Inference Protocol's words for the verdict."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from serve.contract import health
from serve.contract.lifecycle import Reason, State, Verdict
from serve.contract.status import Engine, Main, StatusPage
from serve.errors import NotFound


@pytest.fixture
def page() -> Iterator[StatusPage]:
    page = StatusPage.create()
    page.main.count[Main.ENGINES] = 1
    yield page
    os.close(page.fd)


def serving(page: StatusPage, version: str = "1") -> StatusPage:
    page.write_text(0, {"model": {"name": "digits", "version": version}})
    page.engine(0).count[Engine.STATE] = State.READY
    page.write_verdict(Verdict(True, Reason.READY), 1.0)
    return page


def test_not_ready_is_503_with_the_reason_and_what_clears_it(page: StatusPage) -> None:
    page.write_verdict(Verdict(False, Reason.WARMING), 1.0)
    answer = health.ready(page)
    assert answer.status == 503
    assert answer.body == {"ready": False, "reason": "warming", "clears_when": "warm-up and golden checks pass"}


def test_ready_is_200_for_the_container_and_for_its_model_in_its_version(page: StatusPage) -> None:
    serving(page)
    assert (health.ready(page).status, health.ready(page).body) == (200, {"ready": True})
    assert health.model_ready(page, "digits").body == {"name": "digits", "ready": True}
    assert health.model_ready(page, "digits", "1").status == 200


@pytest.mark.parametrize(("name", "version"), [("other", None), ("digits", "2"), ("", None)])
def test_a_model_that_is_not_served_is_not_found_and_the_message_names_what_is(
    page: StatusPage, name: str, version: str | None
) -> None:
    with pytest.raises(NotFound, match="there is digits version 1"):
        health.model_ready(serving(page), name, version)


def test_while_no_engine_has_told_its_model_any_name_may_still_come(page: StatusPage) -> None:
    assert health.model_ready(page, "digits").status == 503


def test_a_model_is_not_ready_while_the_container_is_not(page: StatusPage) -> None:
    serving(page).write_verdict(Verdict(False, Reason.DRAINING), 2.0)
    assert health.model_ready(page, "digits").status == 503


def test_a_model_without_a_ready_engine_is_not_ready_though_another_model_is(page: StatusPage) -> None:
    page.main.count[Main.ENGINES] = 2
    page.write_text(1, {"model": {"name": "wine", "version": "1"}})
    page.engine(1).count[Engine.STATE] = State.WARMING
    serving(page)
    assert (health.model_ready(page, "digits").status, health.model_ready(page, "wine").status) == (200, 503)


def test_alive_is_always_200() -> None:
    assert (health.live().status, health.live().body) == (200, {"live": True})
