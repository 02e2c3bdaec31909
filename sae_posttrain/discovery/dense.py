"""A dense direction in place of SAE features: the difference of two mean residuals, stored as an SAE of one feature."""

# D model width

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..sae import SparseAutoencoder
from ..sae.activations import ReLU
from .statistics import LayerStatistics

DENSE = "dense contrast"


def one_feature(layer: int, encoder_D: Tensor, bias: float) -> SparseAutoencoder:
    """An SAE of one feature, whose activation is `relu(h @ encoder + bias)` and whose direction is the encoder row."""
    rows_1D = encoder_D.detach().float().cpu()[None]
    zeros_D = torch.zeros(rows_1D.shape[1])
    return SparseAutoencoder(rows_1D, torch.tensor([bias]), rows_1D, zeros_D, ReLU(), layer, source=DENSE)


def nothing(layers: Sequence[int], width: int) -> dict[int, SparseAutoencoder]:
    """SAEs whose one feature never fires, for a pass that needs only the sums of residuals."""
    return {layer: one_feature(layer, torch.zeros(width), 0.0) for layer in layers}


def dense_saes(
    statistics: Mapping[int, Mapping[str, LayerStatistics]], positive: str, negative: str
) -> dict[int, SparseAutoencoder]:
    """For each layer, make a feature that points from one group's mean residual to the other's.

    The feature's pre-activation is 0 at the mean of `negative`. At the mean of `positive` it equals the distance
    between the two means. At its typical strength the feature therefore writes about the difference of the means.

    Args:
        statistics: layer → group → sums of residuals.
        positive, negative: the group that the direction points to, and the group that it points away from.

    Raises:
        ValueError: both groups have the same mean.
    """
    made = {}
    for layer, groups in statistics.items():
        difference_D = (groups[positive].mean_residual - groups[negative].mean_residual).cpu()
        distance = difference_D.norm()
        if distance == 0:
            raise ValueError(f"The mean residuals of {positive} and {negative} are the same at layer {layer}.")
        unit_D = difference_D / distance
        bias = -float(groups[negative].mean_residual.cpu() @ unit_D)
        made[layer] = one_feature(layer, unit_D, bias)
    return made
