"""Every way to train on two processes: what SASFT adds to the gradient is the hand-written auxiliary term."""

import json
from collections.abc import Callable
from functools import cache

import pytest
from two_processes import launch

from .exactness import TERMS, record
from .ranks import ROUTES, ROWS

Outcome = tuple[dict[tuple[str, str, str], float], int, str]
"""Errors by row, route and term, as far as the run came; its exit code, and what it wrote to stderr."""


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
