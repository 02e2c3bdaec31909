"""Dense classifiers beside the rule of features, on residuals with a planted direction."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

from sae_posttrain.data.probes import best_threshold, choose_probe, dense_fits, logistic_regression, mean_difference
from sae_posttrain.metrics.detection import Detection


def planted(seed: int, examples: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive_E = rng.random(examples) < 0.5
    residual_ED = rng.normal(size=(examples, 8)) + np.outer(positive_E, [2.0, -1, 0, 0, 0, 0, 0, 0])
    return residual_ED, positive_E


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_has_the_highest_f1_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score_E, positive_E = rng.integers(0, 6, 25).astype(float), rng.random(25) < 0.5

    def f1(threshold: float) -> float:
        return Detection.of(score_E > threshold, positive_E, resamples=1).f1

    every = [f1(threshold) for threshold in np.arange(-0.5, 6)]
    assert f1(best_threshold(score_E, positive_E)) == pytest.approx(max(every))


def test_the_difference_of_means_finds_the_planted_direction() -> None:
    detects = mean_difference(*planted(0))
    residual_ED, positive_E = planted(1)
    assert Detection.of(detects(residual_ED), positive_E).f1 > 0.8
    shuffled = mean_difference(planted(0)[0], np.random.default_rng(5).permutation(planted(0)[1]))
    assert Detection.of(shuffled(residual_ED), positive_E).f1 < 0.72  # saying yes to everything has 0.67


def test_layer_and_strength_are_those_that_do_best_on_held_out_examples() -> None:
    pytest.importorskip("sklearn")
    residual_ED, positive_E = planted(2)
    noise_ED = np.random.default_rng(3).normal(size=residual_ED.shape)
    held_out_E = np.arange(len(positive_E)) % 4 == 0
    fits = {"weak": logistic_regression(1e-6), "strong": logistic_regression(1.0)}
    found = choose_probe(fits, {7: noise_ED, 9: residual_ED}, positive_E, held_out_E)
    assert found.layer == 9
    assert found.held_out.f1 > 0.8
    other_ED, other_E = planted(4)
    assert Detection.of(found.detects({9: other_ED}), other_E).f1 > 0.8


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *given: Any, **more: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *given, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"sae-posttrain\[classify\]"):
        logistic_regression()
    assert list(dense_fits()) == ["difference of means"]
