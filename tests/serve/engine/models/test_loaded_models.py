"""Models come and go under numbers; what is taken stays until it is answered."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from evenkeel.serve.engine.models.loaded_models import LoadedModels
from evenkeel.serve.transport.descriptor import model_ref


@dataclass(eq=False)
class FakeModel:
    ref: int
    idle: bool = False


def test_a_model_is_found_by_its_number_and_generation() -> None:
    models: LoadedModels[FakeModel] = LoadedModels()
    models.add(model := FakeModel(model_ref(3, 2)))
    assert models.get(model_ref(3, 2)) is model and models.all == (model,)
    assert models.get(model_ref(3, 1)) is None and models.get(model_ref(2, 2)) is None


def test_one_that_is_withdrawn_takes_nothing_and_stays_until_it_is_idle() -> None:
    models: LoadedModels[FakeModel] = LoadedModels()
    models.add(model := FakeModel(model_ref(0, 1)))
    assert models.withdraw(model.ref) is model and models.withdraw(model.ref) is None
    assert models.get(model.ref) is None and models.owner(model.ref) is model
    assert models.drop_idle() == [] and models.all == (model,) and models.leaving
    model.idle = True
    assert models.drop_idle() == [model]
    assert models.all == () and models.owner(model.ref) is None and not models.leaving


def test_its_number_is_free_for_the_next_generation_at_once() -> None:
    models: LoadedModels[FakeModel] = LoadedModels()
    models.add(FakeModel(model_ref(0, 1)))
    with pytest.raises(AssertionError):
        models.add(FakeModel(model_ref(0, 2)))
    models.withdraw(model_ref(0, 1))
    models.add(new := FakeModel(model_ref(0, 2)))
    assert models.get(new.ref) is new and len(models.all) == 2
    with pytest.raises(AssertionError):
        models.add(FakeModel(model_ref(0, 1)))
