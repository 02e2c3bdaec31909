"""Find where a feature is most active: the passages of given texts around its highest values."""

# S sequence, F selected features of one layer

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..artefacts import TOP_CONTEXTS
from ..discovery.statistics import CHUNK_ELEMENTS
from ..discovery.tokens import Pieces, cut
from ..feature_set import FeatureSet
from ..residual import read_residuals
from ..sae import SparseAutoencoder
from .pre_activations import read_pre_activations


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
    features = FeatureSet.of(features)
    passages = _Passages(tokenizer, texts, top=top, around=around, max_length=max_length)
    for n, pre in read_pre_activations(model, features, passages.ids, batch_size=batch_size):
        passages.add(n, pre)
    return [
        FeatureContexts(layer.layer, layer.ids[row], layer.targets[row], passages.best(layer.layer, row))
        for layer in features.layers
        for row in range(len(layer.ids))
    ]


def top_activations(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    saes: Mapping[int, SparseAutoencoder],
    features: Mapping[int, Sequence[int]],
    texts: Mapping[str, Sequence[str]],
    *,
    top: int = 5,
    around: int = 12,
    batch_size: int = 8,
    max_length: int = 512,
) -> list[FeatureContexts]:
    """For features of an SAE, find the passages with their highest activations.

    Unlike `top_contexts` it needs no feature set, reads the activation after the SAE's own activation function, and
    shows only passages in which the feature fires.

    Args:
        model, tokenizer: the model and its tokenizer.
        saes: layer → SAE, such as `{16: load_sae("saes", 16)}`.
        features: layer → indices into the SAE's dictionary.
        texts: group, such as a language code → texts.
        top, around, batch_size, max_length: as in `top_contexts`.

    Returns:
        The passages by layer and feature, in the order given; `target` is empty.

    Raises:
        ValueError: `top` or `around` is out of range, or a feature or layer that no SAE has.

    Example:
        >>> found = top_activations(model, tokenizer, {16: sae}, {16: [7, 9]}, {"en": ["Hello there."]}, top=1)

    Source: arXiv:2605.11887, section 3.2 (the contexts that excite a feature most).
    """
    _check_features(saes, features)
    passages = _Passages(tokenizer, texts, top=top, around=around, max_length=max_length)
    wanted = {layer: torch.tensor(list(ids), dtype=torch.long) for layer, ids in features.items() if ids}
    order = sorted((n for n, ids in enumerate(passages.ids) if len(ids) > 1), key=lambda n: -len(passages.ids[n]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        residuals, _ = read_residuals(model, wanted, [passages.ids[n] for n in batch])
        for row, n in enumerate(batch):
            passages.add(
                n,
                {
                    layer: _activations(saes[layer], residuals[layer][row, : len(passages.ids[n])], ids_F)
                    for layer, ids_F in wanted.items()
                },
            )
    return [
        FeatureContexts(layer, feature, "", tuple(one for one in passages.best(layer, row) if one.peak > 0))
        for layer, ids in features.items()
        for row, feature in enumerate(ids)
    ]


def _check_features(saes: Mapping[int, SparseAutoencoder], features: Mapping[int, Sequence[int]]) -> None:
    for layer, ids in features.items():
        if layer not in saes:
            raise ValueError(f"No SAE was given for layer {layer}; those given are for {sorted(saes)}.")
        outside = [feature for feature in ids if not 0 <= feature < saes[layer].d_sae]
        if outside:
            raise ValueError(
                f"Feature {outside[0]} is out of range: layer {layer} has features 0 to {saes[layer].d_sae - 1}."
            )


def _activations(sae: SparseAutoencoder, residual_SD: Tensor, ids_F: Tensor) -> Tensor:
    residual_SD = residual_SD.to(sae.encoder.device)
    size = max(1, CHUNK_ELEMENTS // sae.d_sae)
    return torch.cat([sae.encode(chunk_ND)[:, ids_F.to(chunk_ND.device)] for chunk_ND in residual_SD.split(size)]).cpu()


class _Passages:
    """The best passages of each feature, as one text after the other is read."""

    def __init__(
        self, tokenizer: Any, texts: Mapping[str, Sequence[str]], *, top: int, around: int, max_length: int
    ) -> None:
        if top < 1 or around < 0:
            raise ValueError(f"top={top}, around={around}: expected at least 1 and 0.")
        self._top, self._around = top, around
        self._members = [(group, text) for group, of_group in texts.items() for text in of_group]
        self._cuts = [cut(tokenizer, text, max_length, special=True) for _, text in self._members]
        self._best: dict[tuple[int, int], list[tuple[float, int, Context]]] = {}

    @property
    def ids(self) -> list[list[int]]:
        """The token ids of each text."""
        return [one.ids for one in self._cuts]

    def add(self, n: int, values: Mapping[int, Tensor]) -> None:
        """Note text n, in which each layer's features have these values `(S, F)`."""
        if len(self._cuts[n].ids) < 2:
            return
        for layer, values_SF in values.items():
            peaks_F, places_F = values_SF[1:].max(0)
            for row, (peak, place) in enumerate(zip(peaks_F.tolist(), (places_F + 1).tolist(), strict=True)):
                heap = self._best.setdefault((layer, row), [])
                if len(heap) < self._top or peak > heap[0][0]:
                    group, text = self._members[n]
                    context = Context(
                        group, peak, pieces_around(text, self._cuts[n], values_SF[:, row], place, self._around)
                    )
                    # -n: among equal peaks the earlier text is kept, whatever the batch size.
                    (heapq.heappush if len(heap) < self._top else heapq.heapreplace)(heap, (peak, -n, context))

    def best(self, layer: int, row: int) -> tuple[Context, ...]:
        """The passages of a layer's feature in this row, the highest first."""
        return tuple(context for _, _, context in sorted(self._best.get((layer, row), []), reverse=True))


def contexts_to_json(found: Sequence[FeatureContexts]) -> dict[str, Any]:
    """Plain values for JSON."""
    return {TOP_CONTEXTS: [asdict(one) for one in found]}


def pieces_around(text: str, cut: Pieces, pre_S: Tensor, place: int, around: int) -> tuple[tuple[str, float], ...]:
    """The text around a place, by token, each with its value. Tokens that share one character become one piece.

    Args:
        text: the whole text.
        cut: its tokens. The first is left out: it is the beginning of the sequence, or the attention sink.
        pre_S: pre-activation at each token.
        place: the token in the middle.
        around: number of tokens on each side.
    """
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
