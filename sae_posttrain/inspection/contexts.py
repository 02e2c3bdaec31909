"""Find where a feature is most active: the passages of given texts around its highest pre-activations."""

# S sequence, F selected features of one layer

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..artefacts import TOP_CONTEXTS
from ..feature_set import FeatureSet
from .pre_activations import Pieces, cut, read_pre_activations


@dataclass(frozen=True)
class Context:
    """A passage of a text.

    Args:
        group: the group of the text.
        peak: the highest pre-activation in the passage.
        pieces: the passage in pieces of text, each with its pre-activation.
    """

    group: str
    peak: float
    pieces: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class FeatureContexts:
    """The passages in which one feature is most active, the highest first, each from a different text."""

    layer: int
    feature: int
    target: str
    contexts: tuple[Context, ...]


def top_contexts(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    features: FeatureSet | str | Path,
    texts: Mapping[str, Sequence[str]],
    *,
    top: int = 5,
    around: int = 12,
    batch_size: int = 8,
    max_length: int = 512,
) -> list[FeatureContexts]:
    """For every feature, find the passages with its highest pre-activations.

    The first position of each text is left out, as in discovery: its residual is unlike that of any other position.

    Args:
        model, tokenizer: the model and its tokenizer.
        features: a feature set, or its path.
        texts: group, such as a language code → texts.
        top: number of passages per feature.
        around: number of tokens to show on each side of the highest pre-activation.
        batch_size: texts per forward pass.
        max_length: number of tokens of each text that are read.

    Returns:
        For each feature, its passages in descending order of their highest pre-activation.

    Raises:
        ValueError: `top` or `around` is out of range, or the features do not fit the model.

    Example:
        >>> found = top_contexts(model, tokenizer, features, {"en": ["Hello there."], "fr": ["Bonjour à tous."]}, top=1)

    Source: our own.
    """
    if top < 1 or around < 0:
        raise ValueError(f"top={top}, around={around}: expected at least 1 and 0.")
    features = FeatureSet.of(features)
    members = [(group, text) for group, of_group in texts.items() for text in of_group]
    cuts = [cut(tokenizer, text, max_length, special=True) for _, text in members]
    best: dict[tuple[int, int], list[tuple[float, int, Context]]] = {}
    for n, pre in read_pre_activations(model, features, [one.ids for one in cuts], batch_size=batch_size):
        if len(cuts[n].ids) < 2:
            continue
        for layer, pre_SF in pre.items():
            peaks_F, places_F = pre_SF[1:].max(0)
            for row, (peak, place) in enumerate(zip(peaks_F.tolist(), (places_F + 1).tolist(), strict=True)):
                heap = best.setdefault((layer, row), [])
                if len(heap) < top or peak > heap[0][0]:
                    group, text = members[n]
                    context = Context(group, peak, _pieces(text, cuts[n], pre_SF[:, row], place, around))
                    # -n: among equal peaks the earlier text is kept, whatever the batch size.
                    (heapq.heappush if len(heap) < top else heapq.heapreplace)(heap, (peak, -n, context))
    return [
        FeatureContexts(
            layer.layer,
            layer.ids[row],
            layer.targets[row],
            tuple(context for _, _, context in sorted(best.get((layer.layer, row), []), reverse=True)),
        )
        for layer in features.layers
        for row in range(len(layer.ids))
    ]


def contexts_to_json(found: Sequence[FeatureContexts]) -> dict[str, Any]:
    """Plain values for JSON."""
    return {TOP_CONTEXTS: [asdict(one) for one in found]}


def _pieces(text: str, cut: Pieces, pre_S: Tensor, place: int, around: int) -> tuple[tuple[str, float], ...]:
    """The text around a place, by token, each with its value. Tokens that share one character become one piece."""
    found: list[tuple[int, int, float]] = []
    first, last = max(1, place - around), min(len(cut.ids), place + around + 1)
    for (start, end), value in zip(cut.places[first:last], pre_S[first:last].tolist(), strict=True):
        if found and start < found[-1][1]:
            earlier = found.pop()
            start, end, value = earlier[0], max(end, earlier[1]), max(value, earlier[2])
        if end > start:
            found.append((start, end, value))
    # Text that no token covers, such as spaces that a tokenizer drops, is added to the token after it.
    starts = [found[0][0] if found else 0, *(end for _, end, _ in found)]
    return tuple((text[begin:end], round(v, 4)) for begin, (_, end, v) in zip(starts, found, strict=False))
