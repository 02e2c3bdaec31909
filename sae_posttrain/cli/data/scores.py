"""Read tables of scores: of models on the examples of a benchmark, or on several benchmarks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...texts import load_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def scores_by_example(file: str) -> NDArray[np.float64]:
    """Scores `(M, E)` of M models on E examples, which are numbered from 1."""
    import numpy as np

    table = _table(file, "example")
    examples = sorted({example for row in table.values() for example in row}, key=lambda one: _number(one, file))
    wrong = [model for model, row in table.items() if len(row) != len(examples)]
    if wrong:
        raise ValueError(
            f"{file}: {wrong[0]} has scores for {len(table[wrong[0]])} of {len(examples)} examples; expected all."
        )
    return np.array([[row[example] for example in examples] for row in table.values()])


def scores_by_benchmark(file: str, sources: Mapping[str, str], control: str | None) -> dict[str, list[float]]:
    """Benchmark → `(M,)` scores of the models, in the order of the file."""
    table = _table(file, "benchmark")
    wanted = [*sources, *([control] if control else [])]
    for model, row in table.items():
        if missing := [name for name in wanted if name not in row]:
            raise ValueError(f"{file}: {model} has no score for {missing[0]}; it has scores for {', '.join(row)}.")
    return {name: [row[name] for row in table.values()] for name in wanted}


def _number(example: str, file: str) -> float:
    try:
        return float(example)
    except ValueError as error:
        raise ValueError(f"{file}: expected the number of a row in the column example, got {example!r}.") from error


def _table(file: str, column: str) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for number, row in enumerate(load_rows(file), start=1):
        try:
            model, place, score = str(row["model"]), str(row[column]), float(row["score"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file}, row {number}: expected the columns model, {column} and score (a number), got {row}."
            ) from error
        if not math.isfinite(score):
            raise ValueError(f"{file}, row {number}: the score {score} of {model} is not a finite number.")
        scores = table.setdefault(model, {})
        if place in scores:
            raise ValueError(f"{file}, row {number}: a second score of {model} for {column} {place}; expected one.")
        scores[place] = score
    return table
