"""Language features: features that are active in one language and in no other."""

# L languages, K dictionary size

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..feature_set import FeatureSet
from ..languages import get_language
from ..sae import SparseAutoencoder
from .selection import Choice, check_choice, draw, highest, layer_features, warn_of_active_elsewhere
from .sources import load_saes, provenance
from .statistics import LayerStatistics, collect_statistics
from .thresholds import TokenSample

logger = logging.getLogger(__name__)


def monolinguality(activation_LK: Tensor) -> Tensor:
    """Score every feature for every language: its mean activation there, minus the average of its other means.

    Args:
        activation_LK: `(L, K)` mean activation of each feature in each language.

    Returns:
        `(L, K)` scores.

    Source: arXiv:2507.14894, the definition of nu.
    """
    others = len(activation_LK) - 1
    return activation_LK - (activation_LK.sum(0) - activation_LK) / others


def discover_language_features(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sae: str | Path | Mapping[int, SparseAutoencoder],
    texts: Mapping[str, Sequence[str]],
    *,
    layers: Sequence[int],
    top: int = 2,
    targets: Sequence[str] | None = None,
    select: Literal["monolinguality", "random"] = "monolinguality",
    max_elsewhere: float | None = None,
    seed: int = 0,
    batch_size: int = 8,
    max_length: int = 512,
    progress: bool = True,
) -> FeatureSet:
    """Find the features of each language, and measure the baselines that training compares with.

    Args:
        model, tokenizer: the model and its tokenizer.
        sae: a folder or hub id for `load_sae`, or the SAEs by layer.
        texts: language code → texts, about 100 per language. At least two languages; the published work used 11.
        layers: 0-based decoder blocks. The published choice is the last two.
        top: features per language and layer.
        targets: languages to find features for. Default: all of `texts`.
        select: `monolinguality`; or `random`, a control that draws among the features that fire at all.
        max_elsewhere: a feature is left out if it fires on more than this share, from 0 to 1, of the tokens of any
            other language of `texts`. Random features are drawn without this limit. Default: no limit, as published.
        seed: random seed of `random`.
        batch_size: texts per forward pass.
        max_length: number of tokens of each text that are read.
        progress: whether a progress bar is shown.

    Returns:
        The features of the layers that have any, with a baseline for every language of `texts`.

    Raises:
        ValueError: there are fewer than two languages, a code is unknown, a language has no texts, an SAE has another
            width, a share is not between 0 and 1, or no feature is left.

    Example:
        >>> features = discover_language_features(
        ...     model, tokenizer, "saes", {"en": english, "zh": chinese}, layers=[16, 17], top=4, max_elsewhere=0.02
        ... )

    Source: arXiv:2507.14894, for `monolinguality`.
    """
    texts = _by_language(texts)
    targets = [targets] if isinstance(targets, str) else targets
    targets = [get_language(code).code for code in targets] if targets is not None else list(texts)
    _check_languages(texts, targets)
    check_choice(layers, top, select, ("monolinguality", "random"))
    if max_elsewhere is not None and not 0 <= max_elsewhere <= 1:
        raise ValueError(f"max_elsewhere={max_elsewhere}: expected a share of tokens between 0 and 1.")
    saes = load_saes(sae, layers, model)
    sample = TokenSample.fitting(saes, len(texts))
    statistics = collect_statistics(
        model, tokenizer, saes, texts, batch_size=batch_size, max_length=max_length, progress=progress, sample=sample
    )
    found = []
    for layer in layers:
        chosen = _choose(
            layer, statistics[layer], targets, top=top, select=select, max_elsewhere=max_elsewhere, seed=seed
        )
        for target in targets:
            count = sum(choice.target == target for choice in chosen)
            if count < top:
                logger.warning("Layer %d has only %d of the %d features asked for %s.", layer, count, top, target)
        if chosen:
            found.append(layer_features(saes[layer], statistics[layer], chosen, baselines=True, sample=sample))
    if not found:
        raise ValueError(
            f"No feature of layers {list(layers)} is more active in {', '.join(targets)} than in the other languages. "
            "Try later layers, or check that the SAE belongs to this model."
            + ("" if max_elsewhere is None else f" max_elsewhere={max_elsewhere:g} may leave out too many.")
        )
    features = FeatureSet(tuple(found), provenance(model, saes, texts, select, progress=progress))
    warn_of_active_elsewhere(features)
    return features


def _by_language(texts: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    named: dict[str, Sequence[str]] = {}
    for name, members in texts.items():
        code = get_language(name).code
        if code in named:
            raise ValueError(f"Texts were given twice for {code} (as {name!r} too); put them into one list.")
        named[code] = members
    return named


def _check_languages(texts: Mapping[str, Sequence[str]], targets: Sequence[str]) -> None:
    if len(texts) < 2:
        raise ValueError(
            f"Texts in {len(texts)} language were given, but at least two are needed: a language's features are found "
            "by comparison with other languages."
        )
    missing = [code for code in targets if code not in texts]
    if missing:
        raise ValueError(
            f"There are no texts for {', '.join(missing)}. A language's features are found in its own texts; add some."
        )


def fires_elsewhere(statistics: Mapping[str, LayerStatistics], target: str) -> Tensor:
    """`(K,)` share of tokens on which each feature fires, in the language other than the target where it is largest."""
    others = [one.firing / one.tokens for code, one in statistics.items() if code != target]
    return torch.stack(others).max(0).values


def _choose(
    layer: int,
    statistics: Mapping[str, LayerStatistics],
    targets: Sequence[str],
    *,
    top: int,
    select: str,
    max_elsewhere: float | None,
    seed: int,
) -> list[Choice]:
    score_LK = monolinguality(torch.stack([one.mean_activation for one in statistics.values()]))
    scores = {code: score_K for code, score_K in zip(statistics, score_LK, strict=True) if code in targets}
    ranked = []
    for code in targets:
        score_K = scores[code]
        if max_elsewhere is not None:
            score_K = score_K.where(fires_elsewhere(statistics, code) <= max_elsewhere, float("-inf"))
        ranked += highest(score_K, code, top, own=code)
    if select == "monolinguality":
        return ranked
    drawn = draw(statistics, ranked, top * len(targets), seed + 1000 * layer)
    return [
        Choice(feature, code, float(scores[code][feature]), own=code)
        for position, code in enumerate(targets)
        for feature in drawn[position * top : (position + 1) * top]
    ]
