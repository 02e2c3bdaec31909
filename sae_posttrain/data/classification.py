"""Classify texts by the features of a set: a text is of a class if one of the class's features fires on it."""

# B batch, S sequence, F features of one layer, D model width

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..discovery.sources import load_saes
from ..discovery.statistics import check_reading, share_of_process
from ..discovery.tokens import cut, first_tokens
from ..feature_set import FeatureSet, LayerFeatures
from ..residual import inputs_device, read_residuals, text_config
from ..sae import SparseAutoencoder


@dataclass(frozen=True)
class FiringEvidence:
    """A feature that fires on a text, and the token on which it is most active.

    Args:
        target: the class that the feature stands for.
        layer: 0-based decoder block.
        feature: index in the SAE's dictionary.
        token: the token's text.
        start, end: place of the token in the text, in characters; −1 if the tokenizer does not know it.
        activation: the feature's activation at that token.
    """

    target: str
    layer: int
    feature: int
    token: str
    start: int
    end: int
    activation: float


@dataclass(frozen=True)
class Verdict:
    """The classes of one text, and every feature that says so; both are empty if no feature fires."""

    evidence: tuple[FiringEvidence, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        """The classes of the text, sorted."""
        return tuple(sorted({one.target for one in self.evidence}))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"classes": list(self.targets), "evidence": [asdict(one) for one in self.evidence]}


def classify(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    features: FeatureSet | str | Path,
    texts: Sequence[str],
    *,
    sae: str | Path | Mapping[int, SparseAutoencoder] | None = None,
    batch_size: int = 8,
    max_length: int = 512,
) -> list[Verdict]:
    """Classify texts by the OR-rule, and name the feature, the layer and the token that decided.

    Args:
        model, tokenizer: the model that the features were found with, and its tokenizer.
        features: a feature set of `discover_class_features`, or its path. Any other set works too: its targets are the
            classes.
        texts: the texts to classify.
        sae: a folder or hub id for `load_sae`, or the SAEs by layer. A feature then fires as in the SAE, which for a
            TopK SAE depends on all of its features. Default: none. A feature then fires where its pre-activation
            exceeds the threshold that the feature set holds.
        batch_size: texts per forward pass.
        max_length: number of tokens of each text that are read.

    Returns:
        A verdict for each text. The first token of a text does not count. Under `accelerate launch` every process reads
        a part of the texts, and has all verdicts at the end.

    Raises:
        ValueError: the features do not fit the model or the SAE, or there is neither an SAE nor a threshold.

    Example:
        >>> verdict = classify(model, tokenizer, "toxic.safetensors", ["You fool!"], sae="saes")[0]
        >>> verdict.targets
        ('toxic',)
        >>> [(one.layer, one.feature, one.token) for one in verdict.evidence]

    Source: arXiv:2605.11887, section 5, Eq. 15 and 17.
    """
    check_reading(batch_size, max_length)
    features = FeatureSet.of(features)
    # Under the name they were found in: a fine-tuned model has another.
    features.check_model(text_config(model), features.provenance.base_model)
    saes = None
    if sae is not None:
        device = inputs_device(model)
        loaded = load_saes(sae, [layer.layer for layer in features.layers], model)
        saes = {layer: one.encoder_to(device) for layer, one in loaded.items()}
    readers = {layer.layer: _reader(layer, saes, features.provenance.sae) for layer in features.layers}
    cuts = [_tokens(tokenizer, text, max_length) for text in texts]
    verdicts: dict[int, Verdict] = {}
    order = sorted((n for n, one in enumerate(cuts) if len(one.ids) > 1), key=lambda n: -len(cuts[n].ids))
    for batch in share_of_process(order, batch_size):
        residuals, _ = read_residuals(model, readers, [cuts[n].ids for n in batch])
        for row, n in enumerate(batch):
            own = {layer: values[row, : len(cuts[n].ids)] for layer, values in residuals.items()}
            found = [one for reader in readers.values() for one in _evidence(reader, own, cuts[n])]
            verdicts[n] = Verdict(tuple(found))
    if PartialState().num_processes > 1:
        verdicts = {n: one for part in gather_object([verdicts]) for n, one in part.items()}
    return [verdicts.get(n, Verdict(())) for n in range(len(texts))]


class _Reader(NamedTuple):
    """How the features of one layer are read: with the SAE, or by thresholds of their own."""

    layer: LayerFeatures
    sae: SparseAutoencoder | None

    def activations(self, residual_SD: Tensor) -> Tensor:
        """`(S, F)` activations, 0 where a feature does not fire."""
        if self.sae is not None:
            return self.sae.encode(residual_SD.to(self.sae.encoder.device))[:, list(self.layer.ids)].float()
        return self.layer.pre_activations(residual_SD).relu() * self.layer.fires(residual_SD)


def _reader(layer: LayerFeatures, saes: Mapping[int, SparseAutoencoder] | None, found_with: str) -> _Reader:
    if saes is None and layer.threshold is None:
        raise ValueError(
            f"The features of layer {layer.layer} have no firing thresholds, so the SAE is needed to tell where they "
            "fire. Give sae, or discover the features again."
        )
    sae = None if saes is None else saes[layer.layer]
    if sae is not None:
        rows_FD = sae.folded(list(layer.ids))[0].float().cpu()
        if not torch.allclose(rows_FD, layer.encoder, rtol=1e-2, atol=1e-3 * float(layer.encoder.abs().max())):
            raise ValueError(
                f"The features of layer {layer.layer} are not those of {sae.source}: their encoder rows differ. Give "
                f"the SAE that they were found with, {found_with}."
            )
    return _Reader(layer, sae)


class _Tokens(NamedTuple):
    """A text's token ids, their texts, and their places in it."""

    ids: list[int]
    pieces: list[str]
    places: list[tuple[int, int]]


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str, max_length: int) -> _Tokens:
    if not tokenizer.is_fast:
        (ids,) = first_tokens(tokenizer, [text], max_length)
        return _Tokens(ids, [tokenizer.decode([one]) for one in ids], [(-1, -1)] * len(ids))
    ids, places = cut(tokenizer, text, max_length, special=True)
    return _Tokens(ids, [text[start:end] for start, end in places], places)


def _evidence(reader: _Reader, residuals: Mapping[int, Tensor], cut: _Tokens) -> Iterator[FiringEvidence]:
    layer = reader.layer
    peaks_F, places_F = reader.activations(residuals[layer.layer][1:]).max(0)
    for row, (peak, place) in enumerate(zip(peaks_F.tolist(), (places_F + 1).tolist(), strict=True)):
        if peak > 0:
            start, end = cut.places[place]
            yield FiringEvidence(layer.targets[row], layer.layer, layer.ids[row], cut.pieces[place], start, end, peak)
