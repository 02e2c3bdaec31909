"""Repetition features: features that are more active the longer a loop goes on."""

# K dictionary size

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..feature_set import FeatureSet, LayerFeatures
from ..metrics.loops import EXACT_LOOPS, LoopSettings, as_sequence
from ..residual import text_config
from ..sae import SparseAutoencoder
from ..sampling import Prompt, SamplingSettings
from .dense import DENSE, dense_saes, nothing
from .loop_sampling import sample_loops
from .loops import FIRST, LAST, ORDINARY, digit_tokens, passage_of
from .selection import Choice, check_choice, draw, highest, layer_features, warn_of_active_elsewhere
from .sources import load_saes, provenance
from .statistics import LayerStatistics, TokenPassage, check_reading, share_of_process, sum_passages
from .thresholds import TokenSample

logger = logging.getLogger(__name__)

REPETITION = "repetition"


class LoopSampling(TypedDict, total=False):
    """Settings of `sample_loops`. Its defaults apply to those that are left out."""

    loops: int
    sampling: SamplingSettings
    chat: bool


def contrast(statistics: Mapping[str, LayerStatistics]) -> Tensor:
    """`(K,)` mean activation in the last periods of loops minus that in the first. Source: arXiv:2605.11887, §8."""
    return statistics[LAST].mean_activation - statistics[FIRST].mean_activation


def discover_repetition_features(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sae: str | Path | Mapping[int, SparseAutoencoder] | None = None,
    texts: Sequence[str | Sequence[int]] | None = None,
    *,
    prompts: Sequence[Prompt] | None = None,
    layers: Sequence[int],
    top: int = 2,
    select: Literal["contrast", "random", "dense"] = "contrast",
    seed: int = 0,
    batch_size: int = 8,
    max_length: int = 2048,
    loop_settings: LoopSettings = EXACT_LOOPS,
    progress: bool = True,
    **loop_sampling: Unpack[LoopSampling],
) -> FeatureSet:
    """Find the features that are more active in a loop's last period than in its first, for steering into loops.

    The set also holds the features' mean activation outside of loops, as `ordinary text`. Some features are active
    there too, where repetition is correct.

    Args:
        model, tokenizer: the model and its tokenizer.
        sae: a folder or hub id for `load_sae`, or the SAEs by layer; None for `dense`.
        texts: texts or token ids that hold loops, preferably sampled from the model itself. Texts without a loop count
            as ordinary text.
        prompts: instead of texts, prompts from which the model is sampled until it loops.
        layers: 0-based decoder blocks.
        top: features per layer.
        select: `contrast`; or `random`, which draws among the features that fire at all, as a control; or `dense`,
            which needs no SAE and makes one direction for each layer: the mean residual in a loop's last period minus
            that in its first.
        seed: random seed of the random choice.
        batch_size: texts per forward pass.
        max_length: tokens of each text that are read; a loop needs two whole periods there.
        loop_settings: what counts as a loop in token ids. With `fold_digits`, a text is also a loop if it repeats
            except for numbers that count up or down.
        loop_sampling: with prompts, how `sample_loops` samples them: `loops`, `sampling`, `chat`.

    Returns:
        A feature set with the target `repetition`.

    Raises:
        ValueError: no text holds a loop, no feature is more active in the last period, the SAE has another width or is
            missing, `dense` was given an SAE, or a setting is out of range.

    Example:
        >>> features = discover_repetition_features(
        ...     model, tokenizer, "saes", prompts=["Count the sheep.", "Tell me a story."], layers=[16], loops=2
        ... )
        >>> features.save("repetition.safetensors")

    Source: arXiv:2605.11887, section 8.
    """
    if (texts is None) == (prompts is None):
        raise ValueError("Give either texts that contain loops, or prompts to sample them from.")
    if loop_sampling and prompts is None:
        raise ValueError(
            f"{', '.join(loop_sampling)}: only for prompts. With texts nothing is sampled; leave this out."
        )
    check_choice(layers, top, select, ("contrast", "random", "dense"))
    check_reading(batch_size, max_length)
    if (sae is None) != (select == "dense"):
        raise ValueError(f"select={select!r} {'needs an SAE' if sae is None else 'takes no SAE'}.")
    saes = nothing(layers, text_config(model).hidden_size) if sae is None else load_saes(sae, layers, model)
    if prompts is not None:
        sample = sample_loops(
            model,
            tokenizer,
            prompts,
            batch_size=batch_size,
            loop_settings=loop_settings,
            progress=progress,
            **loop_sampling,
        )
        texts = sample.texts
    sequences = _token_ids(tokenizer, texts or [])
    digits = digit_tokens(tokenizer) if loop_settings.fold_digits else frozenset()
    passages = [passage_of(ids, max_length, loop_settings, digits) for ids in sequences]
    tokens = TokenSample.fitting(saes, len((FIRST, LAST, ORDINARY)))
    statistics = _statistics(model, saes, passages, batch_size, progress, tokens)
    if select == "dense":
        saes, top = dense_saes(statistics, LAST, FIRST), 1
        statistics = _statistics(model, saes, passages, batch_size, progress, tokens)
    found = _features_of(saes, statistics, top, select, seed, tokens)
    source = {REPETITION: [" ".join(map(str, ids)) for ids in sequences]}
    selection = {"contrast": "repetition contrast", "dense": DENSE}.get(select, select)
    features = FeatureSet(tuple(found), provenance(model, saes, source, selection, progress=progress))
    warn_of_active_elsewhere(features)
    return features


def _features_of(
    saes: Mapping[int, SparseAutoencoder],
    statistics: Mapping[int, dict[str, LayerStatistics]],
    top: int,
    select: str,
    seed: int,
    sample: TokenSample,
) -> list[LayerFeatures]:
    """The chosen features of each layer that has any."""
    found = []
    for layer in saes:
        chosen = _choose(layer, statistics[layer], top, select, seed)
        if len(chosen) < top:
            logger.warning("Layer %d has only %d of the %d features asked for repetition.", layer, len(chosen), top)
        if chosen:
            found.append(layer_features(saes[layer], statistics[layer], chosen, baselines=False, sample=sample))
    if not found:
        raise ValueError(
            f"No feature of layers {list(saes)} is more active in the last period of a loop than in its first. Try "
            "other layers, or check that the SAE belongs to this model."
        )
    return found


def _token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str | Sequence[int]]) -> list[list[int]]:
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise ValueError(f"texts are a {type(texts).__name__}; expected a list of texts, or of lists of token ids.")
    read: list[list[int]] = []
    for text in texts:
        ids: Any = tokenizer(text)["input_ids"] if isinstance(text, str) else as_sequence(text)
        if not (isinstance(ids, Sequence) and all(isinstance(token, int) for token in ids)):
            raise ValueError(f"texts contain {text!r}; expected texts, or lists of token ids.")
        read.append(list(ids))
    return read


def _statistics(
    model: nn.Module,
    saes: Mapping[int, SparseAutoencoder],
    passages: Sequence[TokenPassage],
    batch_size: int,
    progress: bool,
    sample: TokenSample,
) -> dict[int, dict[str, LayerStatistics]]:
    groups = {span.group for passage in passages for span in passage.spans}
    if LAST not in groups:
        raise ValueError(
            f"None of {len(passages)} texts has a loop with two whole periods in the tokens that are read. Give texts "
            "in which the model loops, raise max_length, or lower the minimums in loop_settings."
        )
    if ORDINARY not in groups:
        logger.warning("All texts loop from their start, so the features' activation in ordinary text is not measured.")
    ordered = sorted((passage for passage in passages if passage.spans), key=lambda passage: len(passage.ids))
    batches = share_of_process(ordered, batch_size)
    total = len(batches)
    return sum_passages(model, saes, sorted(groups), lambda: batches, total=total, progress=progress, sample=sample)


def _choose(layer: int, statistics: Mapping[str, LayerStatistics], top: int, select: str, seed: int) -> list[Choice]:
    score_K = contrast(statistics)
    ranked = highest(score_K, REPETITION, top, own=LAST)
    if select != "random":
        return ranked
    drawn = draw(statistics, ranked, top, seed + 1000 * layer)
    return [Choice(feature, REPETITION, float(score_K[feature]), own=LAST) for feature in drawn]
