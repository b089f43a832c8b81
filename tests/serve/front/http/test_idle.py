"""Who makes room for a new connection, and how long a client may keep silent."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from evenkeel.serve.errors import BodyTimeout, HeaderTimeout
from evenkeel.serve.front.http.idle import IdleConnections
from evenkeel.serve.front.http.silence import HALF_CLOSED_S, JUST_NOW, LINGER_S, Action, ConnectionView, Silence
from evenkeel.serve.http.connection_state import ConnectionState
from evenkeel.serve.settings import Limits

NOW_S = 100.0


@dataclass
class Held:
    address: str
    idle_since_s: float | None
    is_idle: bool = True


def chosen(newcomer: str, *held: Held) -> Held | None:
    return IdleConnections[Held]().choose(Held(newcomer, NOW_S), held, NOW_S)


def test_the_longest_idle_of_the_newcomers_own_address_makes_room() -> None:
    held = [Held("a", 90.0), Held("a", 80.0), Held("b", 10.0), Held("b", 11.0)]
    assert chosen("a", *held) is held[1]


def test_of_other_addresses_the_one_with_the_most_idle_connections_gives_its_longest_idle() -> None:
    held = [Held("a", 10.0), Held("b", 90.0), Held("b", 80.0), Held("c", 5.0)]
    assert chosen("newcomer", *held) is held[2]


def test_who_asked_within_the_last_second_or_waits_for_an_answer_keeps_its_place() -> None:
    assert chosen("a", Held("a", NOW_S - 0.9), Held("a", None), Held("b", NOW_S)) is None


def test_an_address_that_holds_most_places_and_never_rests_makes_room_for_others_but_not_for_its_own() -> None:
    held = [Held("a", None, is_idle=False), Held("a", None), Held("a", NOW_S), Held("b", NOW_S)]
    assert chosen("c", *held) is held[2]
    assert chosen("a", *held) is None
    assert chosen("c", *(Held("a", None, is_idle=False) for _ in range(3))) is None, "all of them wait for an answer"
    assert chosen("c", Held("a", NOW_S), Held("b", NOW_S)) is None, "nobody holds most of them"


def test_nobody_is_chosen_twice_and_who_has_asked_since_is_passed_over() -> None:
    idle, held = IdleConnections[Held](), [Held("a", 10.0), Held("a", 20.0), Held("a", 30.0)]
    assert idle.choose(Held("a", NOW_S), held, NOW_S) is held[0]
    held[1].idle_since_s = None
    assert idle.choose(Held("a", NOW_S), held, NOW_S) is held[2]
    assert idle.choose(Held("a", NOW_S), held, NOW_S) is None, "looked at all of them a moment ago"
    held[1].idle_since_s = 50.0
    assert idle.choose(Held("a", NOW_S), held, NOW_S + 1) in held


# ---- silence ------------------------------------------------------------------------------------------------------------

LIMITS = Limits(keep_alive_s=10.0, header_timeout_s=3.0, body_timeout_s=5.0)


def seen(
    state: ConnectionState, began_s: float = 0.0, hurried: bool = False, unread: int = 0, silent_request: bool = True
) -> ConnectionView:
    return ConnectionView(state, began_s, hurried, unread, None, silent_request)


def test_idle_time_counts_from_the_first_look_after_the_answer() -> None:
    silence = Silence(LIMITS, 0.0)
    silence.quiet_since_s = JUST_NOW
    assert silence.look(1000.0, seen(ConnectionState.IDLE)) is Action.NOTHING, "however long ago the request came"
    assert silence.look(1009.0, seen(ConnectionState.IDLE)) is Action.NOTHING
    assert silence.look(1011.0, seen(ConnectionState.IDLE)) is Action.CLOSE


def test_a_connection_that_never_asks_is_closed_too() -> None:
    assert Silence(LIMITS, 1.0).look(11.5, seen(ConnectionState.IDLE)) is Action.CLOSE
    assert Silence(LIMITS, 1.0).look(LINGER_S + 2, seen(ConnectionState.IDLE, hurried=True)) is Action.CLOSE


@pytest.mark.parametrize(
    "state", [ConnectionState.ANSWERING, ConnectionState.STREAMING, ConnectionState.STALLED, ConnectionState.CLOSING]
)
def test_a_client_that_waits_may_be_silent(state: ConnectionState) -> None:
    assert Silence(LIMITS, 0.0).look(1000.0, seen(state)) is Action.NOTHING


def test_a_request_that_stops_half_way_is_refused() -> None:
    assert isinstance(Silence(LIMITS, 0.0).look(3.5, seen(ConnectionState.HEAD)), HeaderTimeout)
    assert isinstance(Silence(LIMITS, 0.0).look(5.5, seen(ConnectionState.BODY)), BodyTimeout)
    assert isinstance(Silence(LIMITS, 0.0).look(5.5, seen(ConnectionState.DIRECT)), BodyTimeout)
    assert Silence(LIMITS, 0.0).look(2.5, seen(ConnectionState.HEAD)) is Action.NOTHING


def test_a_body_that_drips_is_refused_however_often_it_comes() -> None:
    silence = Silence(LIMITS, 0.0)
    silence.body_begins(0.0)
    for second in range(1, 100):
        silence.heard_s = float(second)
        silence.arrived += 10
        if silence.look(float(second), seen(ConnectionState.BODY)) is not Action.NOTHING:
            break
    assert 10 < second < 15


def test_lingering_ends_when_nothing_comes_and_in_the_end_anyway() -> None:
    silence = Silence(LIMITS, 0.0)
    assert silence.look(1.0, seen(ConnectionState.LINGERING)) is Action.NOTHING
    assert silence.look(3.0, seen(ConnectionState.LINGERING)) is Action.ABORT
    silence.heard_s = 30.5
    assert silence.look(31.0, seen(ConnectionState.LINGERING)) is Action.ABORT


def test_a_half_closed_client_that_waits_long_is_asked_whether_it_is_still_there() -> None:
    silence = Silence(LIMITS, 0.0)
    assert silence.look(HALF_CLOSED_S - 1, seen(ConnectionState.OWED)) is Action.NOTHING
    assert silence.look(HALF_CLOSED_S + 1, seen(ConnectionState.OWED)) is Action.PROBE
    assert silence.look(HALF_CLOSED_S + 1, seen(ConnectionState.OWED, silent_request=False)) is Action.NOTHING
