"""Compute the pre-activations of a feature set's features at every token of given texts."""

# B batch, S sequence, D model width, F selected features of one layer

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..feature_set import FeatureSet, LayerFeatures
from ..residual import read_residuals, text_config


@torch.no_grad()
def read_pre_activations(
    model: nn.Module, features: FeatureSet, sequences: Sequence[Sequence[int]], *, batch_size: int = 8
) -> Iterator[tuple[int, dict[int, Tensor]]]:
    """Compute the pre-activations of features at every token, the longest sequences first.

    Args:
        model: the model, which may be wrapped.
        features: the features.
        sequences: token ids.
        batch_size: sequences per forward pass.

    Yields:
        The index of a sequence, and layer → its pre-activations `(S, F)`.

    Raises:
        ValueError: the features belong to a model of another shape.
    """
    # The name of the base model is given, so that a fine-tuned model, the usual case here, causes no warning.
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
