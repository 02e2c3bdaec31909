"""Overlap of benchmarks, against sets and against a correlation by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sae_posttrain.data import overlap, partial_correlation
from sae_posttrain.discovery.firing import FiringSets

SETS = {"small": [[0, 1], [1]], "large": [[0, 1, 2], [3, 4], [5]], "other": [[7], []]}


def test_shares_are_those_of_the_sets() -> None:
    unions = {name: set().union(*rows) for name, rows in SETS.items()}
    found = overlap({name: FiringSets.of(rows, d_sae=9) for name, rows in SETS.items()})
    for row, one in enumerate(unions.values()):
        for column, other in enumerate(unions.values()):
            shared = len(one & other)
            assert found.covered[row, column] == pytest.approx(shared / len(one))
            assert found.similarity[row, column] == pytest.approx(shared / min(len(one), len(other)))
    assert found.most_covered("small") == ("large", 1.0)
    assert found.most_covered("other")[1] == 0.0


def test_benchmarks_of_different_saes_are_refused() -> None:
    with pytest.raises(ValueError, match="read with one SAE"):
        overlap({"a": FiringSets.of([[0]], d_sae=4), "b": FiringSets.of([[0]], d_sae=8)})
    with pytest.raises(ValueError, match="Got 1 benchmarks"):
        overlap({"a": FiringSets.of([[0]], d_sae=4)})


def test_partial_correlation_is_the_textbook_formula() -> None:
    rng = np.random.default_rng(0)
    control = rng.normal(size=28)
    first = control + rng.normal(size=28)
    second = control + 0.5 * first + rng.normal(size=28)
    r = np.corrcoef([first, second, control])
    by_hand = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert partial_correlation(first.tolist(), second.tolist(), control.tolist()) == pytest.approx(by_hand)


def test_what_the_control_explains_wholly_has_no_partial_correlation() -> None:
    control = [1.0, 2.0, 3.0, 5.0]
    assert np.isnan(partial_correlation([2 * one for one in control], [0.0, 1.0, 0.0, 1.0], control))
    with pytest.raises(ValueError, match="four or more"):
        partial_correlation([1, 2], [1, 2], [1, 2])
