"""Choose features by their scores or at random, and make a feature set's layer from the chosen ones."""

# K dictionary size, F selected features, D model width

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..feature_set import FeatureSet, LayerFeatures
from ..sae import SparseAutoencoder
from .statistics import LayerStatistics
from .thresholds import TokenSample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """A chosen feature.

    Args:
        feature: index in the SAE's dictionary.
        target: what it stands for: a language, a class, a concept, or `repetition`.
        score: the score it was chosen by.
        own: the group of tokens in which its typical activation is measured.
    """

    feature: int
    target: str
    score: float
    own: str


def check_choice(layers: Sequence[int], top: int, select: str, ways: Sequence[str]) -> None:
    if not layers or len(set(layers)) != len(layers):
        raise ValueError(f"layers={list(layers)}: give at least one layer, and each layer only once.")
    if top < 1:
        raise ValueError(f"top={top}: expected at least 1 feature per target and layer.")
    if select not in ways:
        raise ValueError(f"select={select!r}: expected {' or '.join(map(repr, ways))}.")


def highest(score_K: Tensor, target: str, top: int, own: str) -> list[Choice]:
    """The features with the highest scores above zero."""
    # A stable sort: equal scores keep the dictionary's order, so that every run makes the same choice.
    order = score_K.sort(descending=True, stable=True).indices[:top].tolist()
    return [Choice(feature, target, float(score_K[feature]), own) for feature in order if score_K[feature] > 0]


def draw(statistics: Mapping[str, LayerStatistics], ranked: Sequence[Choice], count: int, seed: int) -> list[int]:
    """Draw features at random, as a control, among those that fire at all and are not in `ranked`."""
    alive_K = torch.stack([one.firing for one in statistics.values()]).sum(0) > 0
    alive_K[[choice.feature for choice in ranked]] = False
    candidates = alive_K.nonzero().flatten()
    order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(seed))[:count]
    return candidates[order.to(candidates.device)].tolist()


def layer_features(
    sae: SparseAutoencoder,
    statistics: Mapping[str, LayerStatistics],
    chosen: Sequence[Choice],
    *,
    baselines: bool,
    sample: TokenSample,
) -> LayerFeatures:
    """Make one layer of a feature set.

    Args:
        sae: the layer's SAE.
        statistics: group → sums over the group's tokens.
        chosen: the features to keep.
        baselines: whether the groups are languages or labels, whose mean pre-activations are kept as baselines.
        sample: tokens that the statistics were collected from, on which the thresholds are measured. Measuring them is
            a collective call on every process.
    """
    ids = [choice.feature for choice in chosen]
    encoder_FD, bias_F = (tensor.cpu() for tensor in sae.folded(ids))
    statistics = {group: one.cpu() for group, one in statistics.items()}
    # A pre-activation is linear in the residual, so the mean pre-activation is that of the mean residual.
    pre = {group: (one.mean_residual @ encoder_FD.T + bias_F).float() for group, one in statistics.items()}
    measured = sample.measure(sae, ids)
    return LayerFeatures(
        layer=sae.layer,
        ids=tuple(ids),
        targets=tuple(choice.target for choice in chosen),
        encoder=encoder_FD.float(),
        bias=bias_F.float(),
        direction=sae.direction(ids).float().cpu(),
        score=torch.tensor([choice.score for choice in chosen]),
        typical=torch.tensor([_typical(statistics, choice) for choice in chosen]),
        baselines=pre if baselines else {},
        activations={group: one.mean_activation[ids].float() for group, one in statistics.items()},
        threshold=measured.threshold,
        disagreement=measured.disagreement,
    )


def warn_of_active_elsewhere(features: FeatureSet) -> None:
    """Warn, in one line, if features are also active outside their target. Training warns about each of them."""
    sentences = features.active_elsewhere()
    if sentences:
        logger.warning(
            "%d of %d features are also active in texts without their target. List them with "
            "`sae-posttrain features show FILE`. The first: %s",
            *(len(sentences), sum(len(layer.ids) for layer in features.layers), sentences[0]),
        )


def _typical(statistics: Mapping[str, LayerStatistics], choice: Choice) -> float:
    """Mean activation over the tokens of its own group on which the feature fires; of all groups if there are none."""
    own = statistics[choice.own]
    groups = [own] if own.firing[choice.feature] > 0 else list(statistics.values())
    activation, firing = (
        sum(getattr(one, name)[choice.feature] for one in groups) for name in ("activation", "firing")
    )
    return float(activation / firing)
