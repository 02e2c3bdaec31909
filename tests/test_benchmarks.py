"""The table of times is what the CSV files hold."""

from importlib import import_module
from pathlib import Path

import pytest
from versions import CONTINUOUS_BATCHING_HAS_PAGES

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_the_table_of_times_is_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    table = import_module("_table")
    shown = (
        (BENCHMARKS / "results" / "README.md")
        .read_text(encoding="utf-8")
        .partition(table.BEGIN)[2]
        .partition(table.END)[0]
    )
    assert shown.strip() == table.markdown(table.timings()).strip(), "run python benchmarks/_table.py"
    assert shown.count("| GRPOTrainer |") == 2


def test_steered_generation_compares_like_with_like(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    steered_generation = import_module("steered_generation")
    group = steered_generation.Group("0.4M", 16, "cpu")
    steered_generation.check(group.dense, lambda: group.steered(steered_generation.ONE, group.everywhere))
    for unlike in (group.dense, lambda: group.again(steered_generation.GROUP)):  # no row steered, and all of them
        with pytest.raises(AssertionError, match="the plain group's"):
            steered_generation.check(group.dense, unlike)
    if CONTINUOUS_BATCHING_HAS_PAGES:
        assert [len(answer) for answer in group.continuous()] == [16] * steered_generation.GROUP
