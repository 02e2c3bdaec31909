"""What the benchmarks' README shows is what their results hold."""

from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_the_table_of_times_is_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    table = import_module("_table")
    shown = (BENCHMARKS / "README.md").read_text(encoding="utf-8").partition(table.BEGIN)[2].partition(table.END)[0]
    assert shown.strip() == table.markdown(table.timings()).strip(), "run python benchmarks/_table.py"
    assert shown.count("| GRPOTrainer |") == 2
