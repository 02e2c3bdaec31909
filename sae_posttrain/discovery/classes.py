"""Features that tell a class of texts, such as toxic ones: an OR-rule of few features for each class."""

# E examples, K dictionary size

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..feature_set import FeatureSet, LayerFeatures
from ..metrics.detection import Detection
from ..sae import SparseAutoencoder
from .copies import check_groups, warn_of_copies
from .firing import FiringSets, collect_firing
from .or_rule import (
    SIZES,
    ChooseBy,
    Combine,
    OrRule,
    RankedFeature,
    any_fires,
    choose_rule,
    firing_contrast,
    random_features,
)
from .selection import Choice, check_choice, layer_features
from .sources import load_saes, provenance
from .statistics import Statistics, collect_statistics
from .thresholds import TokenSample


@dataclass(frozen=True, eq=False)
class ClassDiscovery:
    """The features of each class, and how they were chosen.

    Args:
        features: the feature set; the target of each feature is its class.
        rules: the rule of each class, with its results on the held-out texts.
        firing: layer → the features that fire on each text, class by class in the order of `labels`.
        labels: the class of each text.
        held_out_E: whether each text was held out to choose the number of features.
    """

    features: FeatureSet
    rules: tuple[OrRule, ...]
    firing: Mapping[int, FiringSets]
    labels: tuple[str, ...]
    held_out_E: np.ndarray


def discover_class_features(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sae: str | Path | Mapping[int, SparseAutoencoder],
    texts: Mapping[str, Sequence[str]],
    *,
    layers: Sequence[int],
    targets: Sequence[str] | None = None,
    sizes: Sequence[int] = SIZES,
    combine: Combine = "layer",
    choose_by: ChooseBy = "f1",
    select: Literal["firing rate", "random"] = "firing rate",
    held_out: float = 0.2,
    seed: int = 0,
    cache: str | Path | None = None,
    batch_size: int = 8,
    max_length: int = 512,
    progress: bool = True,
) -> ClassDiscovery:
    """Find the few features of each class whose firing on any token tells that a text is of the class.

    Features are ranked by how much more often they fire on the class than on the other texts. How many are taken is
    decided on texts that were held out from the ranking.

    Args:
        model, tokenizer: the model and its tokenizer.
        sae: a folder or hub id for `load_sae`, or the SAEs by layer.
        texts: class → texts. The published work used 2,000 of each of two classes; a tenth of that served as well.
        layers: 0-based decoder blocks to choose from.
        targets: classes to find features for. Default: all of `texts`. Each is told from all other texts together.
        sizes: numbers of features to try.
        combine: `layer`: the best features of the layer whose best feature is best. `layers`: the best feature of each
            of several layers.
        choose_by: the measure on the held-out texts that decides on the number of features, `f1` or
            `balanced_accuracy`.
        select: `firing rate`, or `random`, which draws the same number of features of the same layers among those that
            fire at all, as a control.
        held_out: share of each class that is held out to choose the number of features.
        seed: of the held-out part, and of the random choice.
        cache: a folder for the firing sets, as in `collect_firing`.
        batch_size: texts per forward pass.
        max_length: number of tokens of each text that are read.

    Returns:
        The feature set, the rules, and the firing sets that they were found with.

    Raises:
        ValueError: fewer than two classes, two classes of the same texts, an unknown target, fewer than two texts of a
            class, a share that is not between 0 and 1, or no feature that fires more often on a class.

    Example:
        >>> found = discover_class_features(
        ...     model, tokenizer, "saes", {"toxic": toxic, "clean": clean}, layers=[16, 17], targets=["toxic"]
        ... )
        >>> found.features.save("toxic.safetensors")
        >>> found.rules[0].held_out[1].f1

    Source: arXiv:2605.11887, section 5, Eq. 13 to 17.
    """
    targets = list(texts) if targets is None else list(targets)
    _check(texts, targets, held_out)
    if not sizes or min(sizes) < 1:
        raise ValueError(f"sizes={list(sizes)}: expected numbers of features of at least 1.")
    check_choice(layers, min(sizes), select, ("firing rate", "random"))
    check_groups(texts)
    saes = load_saes(sae, layers, model)
    labels_E = np.array([name for name, members in texts.items() for _ in members])
    flat = [text for members in texts.values() for text in members]
    warn_of_copies(flat)
    reading = {"batch_size": batch_size, "max_length": max_length}
    firing = collect_firing(
        model, tokenizer, saes, flat, layers=layers, at="any", cache=cache, progress=progress, **reading
    )
    held_out_E = _held_out(labels_E, held_out, seed)
    rules = tuple(
        choose_rule(
            firing, labels_E == target, held_out_E, target=target, sizes=sizes, combine=combine, choose_by=choose_by
        )
        for target in targets
    )
    if select == "random":
        rules = tuple(_at_random(rule, firing, labels_E, held_out_E, seed + n) for n, rule in enumerate(rules))
    chosen = {layer: saes[layer] for layer in layers if any(one.layer == layer for r in rules for one in r.features)}
    sample = TokenSample.fitting(chosen, len(texts))
    statistics = collect_statistics(
        *(model, tokenizer, chosen, texts),
        batch_size=batch_size,
        max_length=max_length,
        progress=progress,
        sample=sample,
    )
    features = FeatureSet(
        _layers(rules, chosen, statistics, sample), provenance(model, chosen, texts, select, progress=progress)
    )
    return ClassDiscovery(features, rules, firing, tuple(labels_E.tolist()), held_out_E)


def _check(texts: Mapping[str, Sequence[str]], targets: Sequence[str], held_out: float) -> None:
    if len(texts) < 2:
        raise ValueError(
            f"Texts of {len(texts)} class were given. A class is told from other texts, so give at least two."
        )
    if missing := [target for target in targets if target not in texts]:
        raise ValueError(f"No texts of {', '.join(missing)}; the classes of the texts are {', '.join(texts)}.")
    if len(set(targets)) != len(targets) or not targets:
        raise ValueError(f"targets={targets}: expected at least one class, each once.")
    if not 0 < held_out < 1:
        raise ValueError(f"held_out={held_out}: expected a share between 0 and 1.")
    if few := [name for name, members in texts.items() if len(members) < 2]:
        raise ValueError(f"{few[0]} has {len(texts[few[0]])} text; expected two at least, of which one is held out.")


def _held_out(labels_E: np.ndarray, share: float, seed: int) -> np.ndarray:
    """`(E,)` the same share of every class, but never all of one."""
    rng = np.random.default_rng(seed)
    held_out_E = np.zeros(len(labels_E), dtype=bool)
    for name in dict.fromkeys(labels_E.tolist()):
        members = np.flatnonzero(labels_E == name)
        number = min(max(1, round(share * len(members))), len(members) - 1)
        held_out_E[rng.permutation(members)[:number]] = True
    return held_out_E


def _at_random(
    rule: OrRule, firing: Mapping[int, FiringSets], labels_E: np.ndarray, held_out_E: np.ndarray, seed: int
) -> OrRule:
    """A rule of random features instead: as many of each layer as the rule has. Its held-out result is its own."""
    drawn: list[RankedFeature] = []
    positive_E = labels_E == rule.target
    for layer in dict.fromkeys(one.layer for one in rule.features):
        count = sum(one.layer == layer for one in rule.features)
        contrast_K = firing_contrast(firing[layer], positive_E, ~held_out_E)
        ids = random_features(firing[layer], rule.features, count, seed + 1000 * layer)
        drawn += [RankedFeature(layer, feature, float(contrast_K[feature])) for feature in ids]
    if len(drawn) < len(rule.features):
        raise ValueError(f"Only {len(drawn)} other features fire on these texts; {len(rule.features)} are needed.")
    detection = Detection.of(any_fires(firing, drawn)[held_out_E], positive_E[held_out_E])
    return replace(rule, features=tuple(drawn), held_out={len(drawn): detection})


def _layers(
    rules: Sequence[OrRule], saes: Mapping[int, SparseAutoencoder], statistics: Statistics, sample: TokenSample
) -> tuple[LayerFeatures, ...]:
    found = []
    for layer, sae in saes.items():
        choices = [
            Choice(one.feature, rule.target, one.contrast, own=rule.target)
            for rule in rules
            for one in rule.features
            if one.layer == layer
        ]
        found.append(layer_features(sae, statistics[layer], choices, baselines=True, sample=sample))
    return tuple(found)
