"""Every way to train on two processes: what SASFT adds to the gradient is the hand-written auxiliary term."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from two_processes import launch

from .exactness import TERMS, record
from .ranks import FOUND_WEIGHTS, ROUTES, ROWS, WEIGHT_NAMES, found_weights
from .world import World

Outcome = tuple[dict[tuple[str, str, str], Any], int, str]
"""Errors, or weights that were found, by row, route and term, as far as the run came; its exit code and its stderr."""


@pytest.fixture(scope="module")
def outcome_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Outcome]:
    """One launch for all rows of a configuration, when the first of them asks."""

    @cache
    def run(config: str) -> Outcome:
        found = tmp_path_factory.mktemp(config) / "errors.jsonl"
        found.touch()
        code, stderr = launch(config, "training.sasft.ranks", config, str(found))
        lines = map(json.loads, found.read_text("utf-8").splitlines())
        return {(row, column, term): error for row, column, term, error in lines}, code, stderr

    return run


@pytest.mark.parametrize("column", ROUTES)
@pytest.mark.parametrize(
    ("config", "name"),
    [
        pytest.param(config, name, marks=pytest.mark.slow if config.startswith("zero") else ())
        for config, rows in ROWS.items()
        for name in rows
    ],
)
def test_what_is_added_is_the_auxiliary_gradient(
    config: str, name: str, column: str, outcome_of: Callable[[str], Outcome]
) -> None:
    if config.startswith("zero"):
        pytest.importorskip("deepspeed")
    errors, code, stderr = outcome_of(config)
    for term in TERMS:
        assert (name, column, term) in errors, stderr
        assert code == 0, stderr
        record(name, ROUTES[column], errors[name, column, term], term)
        assert errors[name, column, term] <= 1e-5, term


@pytest.mark.parametrize("column", ROUTES)
def test_weights_that_are_found_follow_one_process(
    column: str, outcome_of: Callable[[str], Outcome], world: World
) -> None:
    found, code, stderr = outcome_of("ddp")
    assert code == 0, stderr
    alone = found_weights(world, ROUTES[column])
    for term in WEIGHT_NAMES:
        of_ranks = found[FOUND_WEIGHTS, column, term]
        assert of_ranks[0] == of_ranks[1], "every rank has the same weight, to the bit"
        assert alone[term][-1] > alone[term][3] > 0
        error = max(abs(a - b) / max(b, 1e-9) for a, b in zip(of_ranks[0], alone[term], strict=True))
        record(FOUND_WEIGHTS, ROUTES[column], error, term)
        assert error <= 1e-5, term
