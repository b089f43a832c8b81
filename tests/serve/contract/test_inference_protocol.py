"""The Open Inference Protocol's words for the verdict."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from evenkeel.serve.contract import inference_protocol
from evenkeel.serve.contract.lifecycle import Reason, ReplicaState, Verdict
from evenkeel.serve.contract.status_page import Engine, Main, StatusPage
from evenkeel.serve.errors import NotFound


@pytest.fixture
def page() -> Iterator[StatusPage]:
    page = StatusPage.create()
    page.main.count[Main.ENGINES] = 1
    yield page
    os.close(page.fd)


def serving(page: StatusPage, version: str = "1") -> StatusPage:
    page.write_text(0, {"model": {"name": "digits", "version": version}})
    page.engine(0).count[Engine.STATE] = ReplicaState.READY
    page.write_verdict(Verdict(True, Reason.READY), 1.0)
    return page


def test_not_ready_is_503_with_the_reason_and_what_clears_it(page: StatusPage) -> None:
    page.write_verdict(Verdict(False, Reason.WARMING), 1.0)
    answer = inference_protocol.ready(page)
    assert answer.status == 503
    assert answer.body == {"ready": False, "reason": "warming", "clears_when": "warm-up and golden checks pass"}


def test_ready_is_200_for_the_container_and_for_its_model_in_its_version(page: StatusPage) -> None:
    serving(page)
    assert (inference_protocol.ready(page).status, inference_protocol.ready(page).body) == (200, {"ready": True})
    assert inference_protocol.model_ready(page, "digits").body == {"name": "digits", "ready": True}
    assert inference_protocol.model_ready(page, "digits", "1").status == 200


@pytest.mark.parametrize(("name", "version"), [("other", None), ("digits", "2"), ("", None)])
def test_a_model_that_is_not_served_is_not_found_and_the_message_names_what_is(
    page: StatusPage, name: str, version: str | None
) -> None:
    with pytest.raises(NotFound, match="there is digits version 1"):
        inference_protocol.model_ready(serving(page), name, version)


def test_while_no_engine_has_told_its_model_any_name_may_still_come(page: StatusPage) -> None:
    assert inference_protocol.model_ready(page, "digits").status == 503


def test_a_model_is_not_ready_while_the_container_is_not(page: StatusPage) -> None:
    serving(page).write_verdict(Verdict(False, Reason.DRAINING), 2.0)
    assert inference_protocol.model_ready(page, "digits").status == 503


def test_a_model_without_a_ready_engine_is_not_ready_though_another_model_is(page: StatusPage) -> None:
    page.main.count[Main.ENGINES] = 2
    page.write_text(1, {"model": {"name": "wine", "version": "1"}})
    page.engine(1).count[Engine.STATE] = ReplicaState.WARMING
    serving(page)
    assert (inference_protocol.model_ready(page, "digits").status, inference_protocol.model_ready(page, "wine").status) == (
        200,
        503,
    )


def test_alive_is_always_200() -> None:
    assert (inference_protocol.live().status, inference_protocol.live().body) == (200, {"live": True})
