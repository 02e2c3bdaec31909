"""The learning curve on planted firing sets."""

from __future__ import annotations

import numpy as np
import pytest

from sae_posttrain.data.learning_curve import learning_curve
from sae_posttrain.discovery.firing import FiringSets
from sae_posttrain.metrics.detection import Detection


def planted(examples: int, seed: int) -> tuple[dict[int, FiringSets], np.ndarray]:
    """One good feature (0), and 300 that fire at random."""
    rng = np.random.default_rng(seed)
    positive_E = np.arange(examples) % 2 == 0
    fires_EK = rng.random((examples, 301)) < 0.1
    fires_EK[:, 0] = rng.random(examples) < np.where(positive_E, 0.8, 0.1)
    rows = [np.flatnonzero(row) for row in fires_EK]
    return {2: FiringSets.of(rows, d_sae=301, layer=2)}, positive_E


def test_more_texts_find_the_good_feature_more_often() -> None:
    firing, positive_E = planted(400, 0)
    test, test_E = planted(300, 1)
    few, many = learning_curve(firing, positive_E, test, test_E, shares=[0.01, 1.0], draws=6, sizes=[1])
    assert (few.examples, many.examples) == (4, 400)
    good = Detection.of([0 in test[2][e] for e in range(300)], test_E).f1
    assert many.f1 == pytest.approx([good] * 6)
    assert few.mean < many.mean
    assert many.to_dict()["draws"] == 6
    assert set(many.layers) == {(2,)}


def test_a_part_in_which_no_feature_tells_the_class_detects_nothing() -> None:
    positive_E = np.arange(8) % 2 == 0
    same = {0: FiringSets.of([[1]] * 8, d_sae=3)}
    (point,) = learning_curve(same, positive_E, same, positive_E, shares=[1.0], draws=2)
    assert (point.f1, point.layers, point.sizes) == ((0, 0), ((), ()), (0, 0))


def test_a_large_held_out_share_of_few_texts_leaves_some_to_rank_with() -> None:
    firing, positive_E = planted(4, 0)
    (point,) = learning_curve(firing, positive_E, firing, positive_E, shares=[1.0], draws=2, held_out=0.9)
    assert point.examples == 4


def test_a_share_out_of_range_is_refused() -> None:
    firing, positive_E = planted(20, 0)
    with pytest.raises(ValueError, match="not more than 0"):
        learning_curve(firing, positive_E, firing, positive_E, shares=[0.5, 0])


def test_taking_some_examples_keeps_their_sets_in_the_given_order() -> None:
    sets = FiringSets.of([[1], [2, 3], [], [4]], d_sae=9)
    some = sets.take([3, 1])
    assert [some[0].tolist(), some[1].tolist(), len(some)] == [[4], [2, 3], 2]
    assert some.features.dtype == sets.features.dtype
