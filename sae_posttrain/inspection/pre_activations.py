"""What a feature set's features read in given tokens: texts cut into tokens that keep their place, and forwards."""

# B batch, S sequence, D model width, F selected features of one layer

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..feature_set import FeatureSet, LayerFeatures
from ..residual import read_residuals, text_config


class Pieces(NamedTuple):
    """A text's token ids, and where each token stands in it."""

    ids: list[int]
    places: list[tuple[int, int]]


def cut(tokenizer: Any, text: str, max_length: int | None = None, *, special: bool = False) -> Pieces:
    """The text's tokens with their places in it; special tokens, where asked for, have the place (0, 0).

    Raises:
        ValueError: the tokenizer does not know places, as those written in Python do not.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} cannot say where in the text its tokens stand; use the model's fast tokenizer."
        )
    encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    return Pieces(encoded["input_ids"][:max_length], [tuple(p) for p in encoded["offset_mapping"][:max_length]])


@torch.no_grad()
def read_pre_activations(
    model: nn.Module, features: FeatureSet, sequences: Sequence[Sequence[int]], *, batch_size: int = 8
) -> Iterator[tuple[int, dict[int, Tensor]]]:
    """For each sequence of token ids its index and, by layer, the pre-activations `(S, F)`; the longest come first.

    Raises:
        ValueError: the features belong to a model of another shape.
    """
    # Under the name they were found in: a fine-tuned model has another, and is what one wants to look into.
    features.check_model(text_config(model), features.provenance.base_model)
    order = sorted((n for n, ids in enumerate(sequences) if len(ids)), key=lambda n: -len(sequences[n]))
    layers = [layer.layer for layer in features.layers]
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        residuals, _ = read_residuals(model, layers, [sequences[n] for n in batch])
        pre = {one.layer: _pre_activations(one, residuals[one.layer]) for one in features.layers}
        for row, n in enumerate(batch):
            yield n, {layer: pre_BSF[row, : len(sequences[n])] for layer, pre_BSF in pre.items()}


def _pre_activations(layer: LayerFeatures, residual_BSD: Tensor) -> Tensor:
    encoder_FD, bias_F = (one.to(residual_BSD.device) for one in (layer.encoder, layer.bias))
    return (residual_BSD.float() @ encoder_FD.T + bias_F).cpu()
