"""The grammar of faults on purpose: what it takes, what it refuses and how, and which batches are meant."""

from __future__ import annotations

import pytest

from evenkeel.serve.contract.fault_grammar import FAULTS_MAX, KINDS, PlannedFault, parse


def test_several_faults_are_read_in_order_with_or_without_spaces() -> None:
    want = (PlannedFault("crash", every=100), PlannedFault("slow", rate=0.01, ms=200), PlannedFault("hang", at=7))
    assert parse("crash:every=100;slow:rate=0.01,ms=200;hang:at=7") == want
    assert parse(" crash : every = 100 ; slow:ms=200, rate=1e-2 ;hang:at=7 ") == want


def test_nothing_is_no_fault() -> None:
    assert parse("") == parse("   ") == ()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_asked_for_by_number_and_by_rate(kind: str) -> None:
    more = ",ms=5" if kind == "slow" else ""
    assert [len(parse(f"{kind}:{when}{more}")) for when in ("every=1", "at=1000000000", "rate=1")] == [1, 1, 1]


@pytest.mark.parametrize(("text", "says"), [
    ("explode:every=1", "crash, hang, slow, oom, nan, not 'explode'"),
    ("crash", "one of every=N, at=N and rate=P"),
    ("crash:", "one of every=N, at=N and rate=P"),
    ("crash:every=1,at=2", "one of every=N, at=N and rate=P"),
    ("crash:every=1,every=2", "every once"),
    ("crash:every=0", "whole number from 1"),
    ("crash:every=-5", "whole number from 1"),
    ("crash:every=1.5", "whole number from 1"),
    ("crash:every=²", "whole number from 1"),
    ("crash:at=1000000001", "whole number from 1"),
    ("crash:every", "whole number from 1"),
    ("nan:rate=0", "above 0 and up to 1"),
    ("nan:rate=1.01", "above 0 and up to 1"),
    ("nan:rate=nan", "above 0 and up to 1"),
    ("nan:rate=often", "above 0 and up to 1"),
    ("slow:rate=0.5", "ms=N for slow"),
    ("crash:every=1,ms=5", "ms=N for slow"),
    ("slow:every=1,ms=3600001", "whole number from 1 to 3600000"),
    ("crash:every=1,colour=2", "not 'colour'"),
    ("crash:every=1;", "not ''"),
    ("crash:every=1;;hang:at=1", "not ''"),
    (";".join(["crash:every=1"] * (FAULTS_MAX + 1)), f"at most {FAULTS_MAX}"),
    ("crash:every=" + "1" * 5000, "characters long"),
])  # fmt: skip
def test_what_is_wrong_is_refused_with_what_it_must_be(text: str, says: str) -> None:
    with pytest.raises(ValueError, match="must") as e:
        parse(text)
    assert says in str(e.value) and "\n" not in str(e.value)


def test_every_nth_batch_the_nth_batch_and_a_share_of_them() -> None:
    def due(fault: PlannedFault) -> list[int]:
        return [n for n in range(1, 8) if fault.due(n, chance=n / 10)]

    assert due(PlannedFault("crash", every=3)) == [3, 6]
    assert due(PlannedFault("crash", at=3)) == [3]
    assert due(PlannedFault("crash", rate=0.35)) == [1, 2, 3]
    assert PlannedFault("crash", rate=1.0).due(1, chance=0.999999)
