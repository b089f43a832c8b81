"""Who holds which span: never two at once, and nothing is lost."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from evenkeel.serve.transport.slots import ARENA_BYTES, CLASSES, STEP, Slot, Slots

FEW = ((1024, 4), (8192, 2), (65536, 1))
FEW_BYTES = sum(size * count for size, count in FEW)


def test_the_smallest_slot_that_fits_is_handed_out() -> None:
    slots = Slots(FEW)
    assert [slots.claim(n).capacity for n in (1, 1024, 1025, 8193)] == [1024, 1024, 8192, 65536]  # type: ignore[union-attr]


def test_a_larger_slot_serves_when_its_own_size_is_exhausted() -> None:
    slots = Slots(FEW)
    assert [slots.claim(1).capacity for _ in range(7)] == [1024] * 4 + [8192] * 2 + [65536]  # type: ignore[union-attr]
    assert slots.claim(1) is None


def test_an_exhausted_arena_serves_again_after_a_release() -> None:
    slots = Slots(FEW)
    held = [slots.claim(1) for _ in range(7)]
    assert slots.claim(1) is None
    assert held[2] is not None
    slots.release(held[2])
    assert slots.claim(1) is held[2]


def test_more_than_the_largest_slot_is_never_given() -> None:
    assert Slots(FEW).claim(65537) is None


def test_a_slot_is_released_once() -> None:
    slots = Slots(FEW)
    slot = slots.claim(1)
    assert slot is not None
    slots.release(slot)
    with pytest.raises(AssertionError):
        slots.release(slot)


def test_the_lowest_offsets_are_used_first_so_that_few_pages_are_touched() -> None:
    slots = Slots(FEW)
    assert [slots.claim(1).offset for _ in range(3)] == [0, 1024, 2048]  # type: ignore[union-attr]


def test_every_slot_of_the_real_arena_starts_on_a_step_and_lies_inside() -> None:
    assert all(size % STEP == 0 for size, _ in CLASSES)
    assert sum(size * count for size, count in CLASSES) == ARENA_BYTES
    smallest = Slots().claim(1)
    assert smallest is not None and smallest.capacity == CLASSES[0][0]


def test_many_are_handed_out_at_once_or_none_at_all() -> None:
    slots = Slots(FEW)
    assert slots.claim_all(1, 5) is None and slots.held == 0
    assert slots.claim_all(1, 0) == [] and slots.held == 0
    four = slots.claim_all(100, 4)
    assert four is not None and len({s.offset for s in four}) == 4 and {s.capacity for s in four} == {1024}
    assert (slots.held, slots.held_bytes) == (4, 400)
    assert slots.claim_all(1, 1) is None, "a larger slot is for those who need it"
    slots.release_all(four)
    assert (slots.held, slots.held_bytes) == (0, 0)


class Ownership(RuleBasedStateMachine):
    """Claims and releases in any order: spans never overlap, and the counts say what is really held."""

    held_slots = Bundle("held_slots")

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(FEW)
        self.held: list[Slot] = []

    @rule(target=held_slots, size=st.integers(0, 70_000))
    def claim(self, size: int) -> object:
        slot = self.slots.claim(size)
        if slot is None:
            assert all(any(h.capacity == c for h in self.held) or c < size for c, _ in FEW)
            return multiple()
        assert slot.capacity >= size
        self.held.append(slot)
        return slot

    @rule(target=held_slots, size=st.integers(1, 9000), count=st.integers(1, 3))
    def claim_all(self, size: int, count: int) -> object:
        taken = self.slots.claim_all(size, count) or []
        assert all(slot.capacity >= size for slot in taken)
        self.held += taken
        return multiple(*taken)

    @rule(slot=consumes(held_slots))
    def release(self, slot: Slot) -> None:
        self.slots.release(slot)
        self.held.remove(slot)

    @invariant()
    def no_byte_has_two_owners(self) -> None:
        spans = sorted((s.offset, s.offset + s.capacity) for s in self.held)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
        assert not spans or (spans[0][0] >= 0 and spans[-1][1] <= FEW_BYTES)

    @invariant()
    def the_counts_are_right(self) -> None:
        assert self.slots.held == len(self.held)
        assert self.slots.held_bytes == sum(s.size for s in self.held)

    def teardown(self) -> None:
        for slot in self.held:
            self.slots.release(slot)
        assert self.slots.held == self.slots.held_bytes == 0
        assert sum(1 for _ in iter(lambda: self.slots.claim(1), None)) == sum(count for _, count in FEW)


TestOwnership = Ownership.TestCase
TestOwnership.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
