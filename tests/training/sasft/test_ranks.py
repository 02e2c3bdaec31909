"""Every way to train on two processes: what SASFT adds to the gradient is the hand-written auxiliary term."""

import json
from collections.abc import Callable
from functools import cache

import pytest
from two_processes import launch

from .exactness import record
from .ranks import ROUTES, ROWS

Outcome = tuple[dict[tuple[str, str], float], int, str]
"""Errors by row and column, as far as the run came; its exit code, and what it wrote to stderr."""


@pytest.fixture(scope="module")
def outcome_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Outcome]:
    """One launch for all rows of a configuration, when the first of them asks."""

    @cache
    def run(config: str) -> Outcome:
        found = tmp_path_factory.mktemp(config) / "errors.jsonl"
        found.touch()
        code, stderr = launch(config, "training.sasft.ranks", config, str(found))
        lines = map(json.loads, found.read_text("utf-8").splitlines())
        return {(row, column): error for row, column, error in lines}, code, stderr

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
    assert (name, column) in errors, stderr
    assert code == 0, stderr
    record(name, ROUTES[column], errors[name, column])
    assert errors[name, column] <= 1e-5
