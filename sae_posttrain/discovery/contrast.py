"""Features of any concept: features that are more active in texts with the concept than in texts without it."""

# K dictionary size

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..feature_set import FeatureSet
from ..residual import text_config
from ..sae import SparseAutoencoder
from .copies import check_groups
from .dense import DENSE, dense_saes, nothing
from .firing import FiringSets, collect_firing
from .selection import Choice, check_choice, draw, highest, layer_features, warn_of_active_elsewhere
from .sources import load_saes, provenance
from .statistics import LayerStatistics, Statistics, collect_statistics
from .thresholds import TokenSample

logger = logging.getLogger(__name__)

Measure = Literal["activation", "firing"]
Select = Literal["contrast", "random", "dense"]
POSITIVE, NEGATIVE = "positive", "negative"


def activation_contrast(statistics: Mapping[str, LayerStatistics], positive: str, negative: str) -> Tensor:
    """`(K,)` mean activation over the tokens of one group minus that of another. Source: arXiv:2605.11887, section 3.2.

    Args:
        statistics: group → sums over its tokens, of one layer.
        positive, negative: the groups.
    """
    return statistics[positive].mean_activation - statistics[negative].mean_activation


def firing_rate_contrast(positive: FiringSets, negative: FiringSets) -> Tensor:
    """`(K,)` share of the positive texts on which a feature fires minus that of the negative ones.

    Args:
        positive, negative: `collect_firing(…)[layer]` of each set of texts, with the same SAE.

    Example:
        >>> sets = [FiringSets.of(rows, d_sae=3) for rows in ([[0], [0, 1]], [[1], []])]
        >>> firing_rate_contrast(*sets).tolist()
        [1.0, 0.0, 0.0]

    Source: arXiv:2605.11887, Eq. 14.
    """
    return torch.from_numpy(positive.counts() / len(positive) - negative.counts() / len(negative))


def discover_contrast_features(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sae: str | Path | Mapping[int, SparseAutoencoder] | None,
    positive: Sequence[str],
    negative: Sequence[str],
    *,
    layers: Sequence[int],
    name: str = POSITIVE,
    negative_name: str = NEGATIVE,
    by: Measure = "activation",
    top: int = 2,
    select: Select = "contrast",
    seed: int = 0,
    batch_size: int = 8,
    max_length: int = 512,
    progress: bool = True,
) -> FeatureSet:
    """Find the features of a concept: those that are more active in texts that show it than in texts that do not.

    The set can steer, suppress, and be trained against by label: `SASFTCallback(features, suppress=name,
    label_column="label")` keeps the concept out of rows with another label. Therefore it holds the mean pre-activations
    in both sets of texts, as baselines for rows with these labels.

    Args:
        model, tokenizer: the model and its tokenizer.
        sae: a folder or hub id for `load_sae`, or the SAEs by layer; None for `dense`.
        positive: texts that show the concept, 100 or more.
        negative: texts that do not show it, but are otherwise similar.
        layers: 0-based decoder blocks.
        name: name of the concept, and label of the positive texts.
        negative_name: label of the negative texts.
        by: `activation` compares mean activations over tokens. `firing` compares the share of texts on which a feature
            fires on some token; it reads the texts twice.
        top: features per layer.
        select: `contrast`; or `random`, which draws among the features that fire at all, as a control; or `dense`,
            which needs no SAE and takes the difference of the mean residuals of each layer.
        seed: random seed of `random`.
        batch_size: texts per forward pass.
        max_length: number of tokens of each text that are read.
        progress: whether progress bars are shown.

    Returns:
        The features, each with its contrast as its score.

    Raises:
        ValueError: a set has no texts, both sets or both names are equal, no feature is more active in the positive
            texts, the SAE has another width, `dense` was given an SAE, or a setting is out of range.

    Example:
        >>> features = discover_contrast_features(
        ...     model, tokenizer, "saes", chinese, english, layers=[16], name="polite", negative_name="blunt", top=1
        ... )
        >>> features.targets
        ('polite',)

    Source: arXiv:2605.11887, section 3.2 and Eq. 14.
    """
    check_choice(layers, top, select, ("contrast", "random", "dense"))
    _check_contrast(name, negative_name, by, select, has_sae=sae is not None)
    saes = nothing(layers, text_config(model).hidden_size) if sae is None else load_saes(sae, layers, model)
    texts = {name: positive, negative_name: negative}
    check_groups(texts)
    sample = TokenSample.fitting(saes, len(texts))

    def collect() -> Statistics:
        reading = {"batch_size": batch_size, "max_length": max_length}
        return collect_statistics(model, tokenizer, saes, texts, **reading, progress=progress, sample=sample)

    statistics = collect()
    if select == "dense":
        saes, top = dense_saes(statistics, name, negative_name), 1
        statistics = collect()
    if by == "firing":
        positives, negatives = (
            collect_firing(
                *(model, tokenizer, saes, members),
                layers=layers,
                batch_size=batch_size,
                max_length=max_length,
                progress=progress,
            )
            for members in texts.values()
        )
    found = []
    for layer in layers:
        score_K = (
            firing_rate_contrast(positives[layer], negatives[layer])
            if by == "firing"
            else activation_contrast(statistics[layer], name, negative_name)
        )
        chosen = _choose(
            statistics[layer], score_K, name, top=top, is_random=select == "random", seed=seed + 1000 * layer
        )
        if len(chosen) < top:
            logger.warning("Layer %d has only %d of the %d features asked for %s.", layer, len(chosen), top, name)
        if chosen:
            found.append(layer_features(saes[layer], statistics[layer], chosen, baselines=True, sample=sample))
    if not found:
        raise ValueError(
            f"No feature of layers {list(layers)} is more active in the texts of {name} than in those of "
            f"{negative_name}. Try other layers, or check that the SAE belongs to this model."
        )
    selection = {"contrast": f"contrast of {by}", "dense": DENSE}.get(select, select)
    features = FeatureSet(tuple(found), provenance(model, saes, texts, selection, progress=progress))
    warn_of_active_elsewhere(features)
    return features


def _check_contrast(name: str, negative_name: str, by: str, select: str, *, has_sae: bool) -> None:
    if by not in ("activation", "firing"):
        raise ValueError(f"by={by!r}: expected 'activation' or 'firing'.")
    if not name.strip() or name == negative_name:
        raise ValueError(f"name={name!r}, negative_name={negative_name!r}: expected two different names.")
    if has_sae == (select == "dense"):
        raise ValueError(f"select={select!r} {'takes no SAE' if has_sae else 'needs an SAE'}.")


def _choose(
    statistics: Mapping[str, LayerStatistics], score_K: Tensor, name: str, *, top: int, is_random: bool, seed: int
) -> list[Choice]:
    ranked = highest(score_K, name, top, own=name)
    if not is_random:
        return ranked
    return [Choice(feature, name, float(score_K[feature]), own=name) for feature in draw(statistics, ranked, top, seed)]
