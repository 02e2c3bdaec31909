"""The whole gradient, cross-entropy and all, is the hand-written one; `test_exactness.py` has every way to train."""

from dataclasses import replace
from typing import Any

import pytest

from .exactness import WEIGHT, Row, answers, moved, reference, relative_error
from .routes import with_callback, with_trainer
from .world import Route, World

PACKED = {"packing": True, "packing_strategy": "bfd", "max_length": 24}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    "packed": {**PACKED, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
}
both_routes = pytest.mark.parametrize("route", [with_callback, with_trainer])
all_settings = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


def check(world: World, route: Route, row: Row) -> None:
    expected = reference(world, row, WEIGHT)
    plain = reference(world, row, 0.0)
    assert relative_error(plain, expected) > 0.01, "the auxiliary term is too small for this test to see"
    assert relative_error(moved(world, route, row, WEIGHT), expected) <= 1e-5


@all_settings
@both_routes
def test_it_is_the_hand_written_one(route: Route, settings: dict[str, Any], world: World) -> None:
    check(world, route, Row(settings))


@all_settings
@both_routes
def test_it_is_the_same_with_languages_told_by_script(route: Route, settings: dict[str, Any], world: World) -> None:
    def without_column(world: World) -> Any:
        dataset, examples = answers(world)
        return dataset.remove_columns("language"), examples

    check(world, route, Row(settings, data=without_column))


@both_routes
def test_several_languages_are_the_sum_of_each(route: Route, world: World) -> None:
    check(world, route, Row(suppress=("zh", "ru")))
    together, zh, ru, none = (
        moved(world, route, Row(suppress=suppress), weight)
        for suppress, weight in ((("zh", "ru"), WEIGHT), (("zh",), WEIGHT), (("ru",), WEIGHT), (("zh",), 0.0))
    )
    summed = {name: zh[name] + ru[name] - none[name] for name in none}
    assert relative_error(together, summed) <= 1e-5


def test_every_row_of_a_batch_counts(world: World) -> None:
    """A hook that reads `output[0]` of today's bare tensors would see the first row only, which here is all zh."""
    ordered = replace(world, dataset=world.dataset.sort("language", reverse=True))
    assert ordered.dataset[0]["language"] == "zh"
    check(ordered, with_callback, Row({"shuffle_dataset": False, "train_sampling_strategy": "sequential"}))
