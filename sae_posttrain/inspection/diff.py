"""Compare two checkpoints of a model: which features change, by how much, and whether training noise does as much."""

# U units of texts, K dictionary size, P permutations, M noise models

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..discovery.sources import load_saes
from ..sae import SparseAutoencoder
from .changes import Change, exceeded, false_shares, largest_scores, paired_change
from .feature_readings import FeatureReading, Quantity, read_model_features


@dataclass(frozen=True, eq=False)
class LayerDiff:
    """The changes in one layer.

    Args:
        layer: 0-based decoder block.
        changes: quantity → its change over all texts.
        by_group: group → quantity → its change over the group's texts.
        noise: name of each noise model → its change of the ranking quantity against the base.
        p_value: `(K,)` by the ranking quantity, family-wise over the features of all layers: how often the largest
            score of any feature is as large when base and tuned are exchanged at random in each unit.
        false_share: `(K,)` q-values by the ranking quantity: the estimated share of features with at least this score
            that training noise explains; NaN without a noise model.
    """

    layer: int
    changes: Mapping[Quantity, Change]
    by_group: Mapping[str, Mapping[Quantity, Change]]
    noise: Mapping[str, Change]
    p_value: np.ndarray
    false_share: np.ndarray


@dataclass(frozen=True)
class ChangedFeature:
    """A feature's place in the ranking; rank 1 is the largest absolute score in any layer."""

    rank: int
    layer: int
    feature: int
    score: float


@dataclass(frozen=True, eq=False)
class ModelDiff:
    """Which features differ between two checkpoints.

    Args:
        base, tuned: the models' names.
        by: the quantity that features are ranked by.
        groups: the names of the groups of texts.
        tokens: number of tokens that each model read.
        units: number of units of texts, which intervals and p-values draw.
        layers: the changes by layer.
        permuted: `(P,)` the largest absolute score of any feature when base and tuned are exchanged at random.
    """

    base: str
    tuned: str
    by: Quantity
    groups: tuple[str, ...]
    tokens: int
    units: int
    layers: Mapping[int, LayerDiff]
    permuted: np.ndarray

    def scores(self, layer: int) -> np.ndarray:
        """`(K,)` the scores that a layer's features are ranked by."""
        return self.layers[layer].changes[self.by].score

    def ranking(self, top: int | None = None) -> list[ChangedFeature]:
        """The features with the largest absolute score first, over all layers; without those that stay."""
        found = [
            (-abs(score), layer, feature, score)
            for layer in self.layers
            for feature, score in enumerate(self.scores(layer).tolist())
            if score
        ]
        return [
            ChangedFeature(rank, layer, feature, score)
            for rank, (_, layer, feature, score) in enumerate(sorted(found)[:top], start=1)
        ]

    def beyond_texts(self, layer: int, level: float = 0.05) -> int:
        """The number of a layer's features with a family-wise p-value of at most `level`."""
        return int((self.layers[layer].p_value <= level).sum())

    def largest_noise(self) -> float | None:
        """The largest absolute score of any feature of any layer in any noise model; None without a noise model."""
        found = [float(np.abs(change.score).max()) for one in self.layers.values() for change in one.noise.values()]
        return max(found, default=None)

    def beyond_noise(self, layer: int) -> int | None:
        """The number of a layer's features with a larger score than any in a noise model; None without one."""
        bound = self.largest_noise()
        return None if bound is None else int((np.abs(self.scores(layer)) > bound).sum())


def diff_models(
    base: nn.Module,
    tuned: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sae: str | Path | Mapping[int, SparseAutoencoder],
    texts: Mapping[str, Sequence[str]],
    *,
    layers: Sequence[int],
    noise: Mapping[str, nn.Module] | None = None,
    by: Quantity = "activation",
    permutations: int = 1000,
    seed: int = 0,
    batch_size: int = 8,
    max_length: int = 512,
    progress: bool = True,
) -> ModelDiff:
    """Find the features that differ between two checkpoints of a model, on the same tokens.

    To hold one model at a time in memory, call `read_model_features` with each and then `diff_readings`.

    Args:
        base, tuned: the two checkpoints; they may be wrapped by PEFT.
        tokenizer: the base's. Both models read the tokens that it makes.
        sae: a folder or hub id for `load_sae`, or an SAE for each layer. The same SAE reads both models.
        texts: group, such as a language code → texts; at least 8 in all, better some dozens.
        layers: 0-based decoder blocks.
        noise: name → checkpoint that differs from the base by training noise alone, such as the same run with another
            seed.
        by: the quantity that features are ranked by.
        permutations: number of random exchanges of base and tuned for the p-values.
        seed: of the permutations.
        batch_size: texts per forward pass.
        max_length: number of tokens of each text that are read.
        progress: whether a progress bar is shown.

    Returns:
        The changes of all features with intervals, p-values and the share that training noise explains.

    Raises:
        ValueError: fewer than 8 texts, an unknown quantity, or an SAE that does not fit the models.

    Example:
        >>> texts = {"en": english * 3, "zh": chinese * 3}
        >>> diff_models(model, model, tokenizer, "saes", texts, layers=[16]).ranking(top=5)
        []

    Source: arXiv:2605.11887, section 9.2 names model diffing as an open direction. The score is that of SAM (Tusher,
    Tibshirani and Chu 2001), the p-values are single-step maxT (Westfall and Young 1993).
    """
    saes = load_saes(sae, layers, base)
    models = {"base": base, "tuned": tuned, **(noise or {})}
    if len(models) != 2 + len(noise or {}):
        raise ValueError("A noise model is named 'base' or 'tuned'; give it another name.")
    readings = {
        name: read_model_features(
            model, tokenizer, saes, texts, name=name, batch_size=batch_size, max_length=max_length, progress=progress
        )
        for name, model in models.items()
    }
    first, second, *others = readings.values()
    return diff_readings(first, second, noise=others, by=by, permutations=permutations, seed=seed)


def diff_readings(
    base: FeatureReading,
    tuned: FeatureReading,
    *,
    noise: Sequence[FeatureReading] = (),
    by: Quantity = "activation",
    permutations: int = 1000,
    seed: int = 0,
) -> ModelDiff:
    """Find the features that differ between two readings of the same texts.

    Args:
        base, tuned: as `read_model_features` returns them.
        noise: readings of models that differ from the base by training noise alone.
        by, permutations, seed: as in `diff_models`.

    Returns:
        As `diff_models`.

    Raises:
        ValueError: the readings are of other texts or layers, two noise readings have the same name, or an SAE does not
            have the quantity.

    Example:
        >>> reading = read_model_features(model, tokenizer, {16: sae}, {"en": english * 3}, name="base")
        >>> diff_readings(reading, reading).ranking()
        []
    """
    _check(base, [tuned, *noise], by, permutations)
    flips_PU = np.random.default_rng(seed).choice([-1.0, 1.0], size=(permutations, len(base.groups)))
    layers, largest_P = {}, np.zeros(permutations)
    for layer in base.sums:
        layers[layer] = _layer_diff(base, tuned, noise, layer, by)
        difference_UK = tuned.sums[layer][by] - base.sums[layer][by]
        offset = layers[layer].changes[by].offset
        largest_P = np.maximum(largest_P, largest_scores(difference_UK, base.tokens, flips_PU, offset))
    shares = _shares_of_noise(layers, by)
    tested = {
        layer: replace(one, p_value=exceeded(one.changes[by].score, largest_P), false_share=shares[layer])
        for layer, one in layers.items()
    }
    groups = tuple(dict.fromkeys(base.groups))
    return ModelDiff(base.name, tuned.name, by, groups, int(base.tokens.sum()), len(base.groups), tested, largest_P)


def _check(base: FeatureReading, others: Sequence[FeatureReading], by: str, permutations: int) -> None:
    if by not in get_args(Quantity):
        raise ValueError(f"by={by!r}: expected one of {', '.join(get_args(Quantity))}.")
    if permutations < 1:
        raise ValueError(f"permutations={permutations}: expected at least 1.")
    for one in others:
        if one.groups != base.groups or not np.array_equal(one.tokens, base.tokens) or set(one.sums) != set(base.sums):
            raise ValueError(
                f"{one.name} and {base.name} were read on other texts, with another tokenizer or in other layers. Read "
                "both with the same arguments."
            )
    names = [one.name for one in others[1:]]
    if len(set(names)) < len(names):
        raise ValueError(f"The noise models are named {', '.join(names)}: give each reading another name.")
    lacking = [layer for layer, sums in base.sums.items() if by not in sums]
    if lacking:
        raise ValueError(
            f"The SAE of layer {lacking[0]} normalises each token, so that it has no mean {by}. Rank by activation or "
            "firing."
        )


def _layer_diff(
    base: FeatureReading, tuned: FeatureReading, noise: Sequence[FeatureReading], layer: int, by: Quantity
) -> LayerDiff:
    """The changes of a layer, without the tests, which need all layers."""
    groups = np.array(base.groups)

    def change(other: FeatureReading, quantity: Quantity, units: np.ndarray, offset: float | None = None) -> Change:
        first_UK, second_UK = (one.sums[layer][quantity][units] for one in (base, other))
        return paired_change(first_UK, second_UK, base.tokens[units], offset)

    every = np.ones(len(groups), dtype=bool)
    changes = {quantity: change(tuned, quantity, every) for quantity in base.sums[layer]}
    by_group = {
        group: {quantity: change(tuned, quantity, groups == group) for quantity in base.sums[layer]}
        for group in dict.fromkeys(base.groups)
    }
    others = {one.name: change(one, by, every, changes[by].offset) for one in noise}
    return LayerDiff(layer, changes, by_group, others, np.empty(0), np.empty(0))


def _shares_of_noise(layers: Mapping[int, LayerDiff], by: Quantity) -> dict[int, np.ndarray]:
    """Layer → `(K,)` false shares, of the features of all layers in one ranking."""
    scores = [one.changes[by].score for one in layers.values()]
    names = list(next(iter(layers.values())).noise)
    noise_MK = np.array([np.concatenate([one.noise[name].score for one in layers.values()]) for name in names])
    shares = false_shares(np.concatenate(scores), noise_MK)
    return dict(zip(layers, np.split(shares, np.cumsum([len(one) for one in scores])[:-1]), strict=True))
