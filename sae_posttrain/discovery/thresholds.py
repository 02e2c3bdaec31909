"""Thresholds: a feature whose pre-activation is above its threshold counts as firing, so that the SAE is not needed.

In a TopK SAE, which features fire depends on all features, so no threshold is exact. The best threshold is chosen on a
sample of the tokens that discovery reads. How often it disagrees with the SAE is measured on another sample.
"""

# N tokens, D model width, K dictionary size, F selected features, W most features that fire on one token

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn.functional import pad

from ..sae import SparseAutoencoder

MOST_TOKENS = 4096  # of one layer
MOST_ELEMENTS = 2**26  # residuals kept in all: 256 MB in float32
_ABSENT = -1


class Thresholds(NamedTuple):
    """`(F,)` thresholds of the features, and `(F,)` how often each disagrees with the SAE (see `LayerFeatures`)."""

    threshold: Tensor
    disagreement: Tensor


@dataclass
class _Kept:
    """Tokens of one layer and group: random keys, residuals `(N, D)`, and the features that fire, `(N, W)`."""

    key_N: Tensor
    residual_ND: Tensor
    fired_NW: Tensor


class TokenSample:
    """Tokens drawn at random from all that discovery reads, with the same number from each group.

    Args:
        size: number of tokens that are kept of each layer and group, on this process.
        seed: random seed of the draw.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self._kept: dict[tuple[int, str], _Kept] = {}
        self._generator = torch.Generator().manual_seed(seed + PartialState().process_index)

    @classmethod
    def fitting(cls, saes: Mapping[int, SparseAutoencoder], groups: int) -> TokenSample:
        """Make a sample that takes at most 256 MB in float32, for any number of layers and groups."""
        room = MOST_ELEMENTS // sum(sae.d_model for sae in saes.values())
        return cls(max(2, min(MOST_TOKENS, room) // groups))

    def add(self, layer: int, group: str, residual_ND: Tensor, fires_NK: Tensor) -> None:
        """Offer tokens to the sample, with the activations of their features; a feature fires where it is not zero.

        Each token gets a random key, and those with the highest keys are kept.
        """
        key_N = torch.rand(len(residual_ND), generator=self._generator)
        before = self._kept.get((layer, group))
        if before is not None and len(before.key_N) == self.size:
            entering = (key_N > before.key_N.min()).nonzero()[:, 0]
        else:
            entering = key_N.topk(min(self.size, len(key_N))).indices
        if not len(entering):
            return
        rows = entering.to(residual_ND.device)
        new = _Kept(key_N[entering], residual_ND[rows].cpu(), _indices(fires_NK[rows]))
        self._kept[layer, group] = new if before is None else _highest(before, new, self.size)

    def measure(self, sae: SparseAutoencoder, features: Sequence[int]) -> Thresholds:
        """Measure the thresholds of some features of one layer. Every process must call it.

        If a feature fires independently of the others (ReLU, JumpReLU), its threshold is exact.
        """
        exact_F = sae.activation.cutoff(features)
        if exact_F is not None:
            return Thresholds(exact_F.float().cpu(), torch.zeros(len(features)))
        encoder_FD, bias_F = (tensor.float().cpu() for tensor in sae.folded(features))
        ids_F = torch.tensor(list(features))
        parts = []
        for (layer, _), kept in self._kept.items():
            if layer == sae.layer:
                pre_NF = kept.residual_ND.float() @ encoder_FD.T + bias_F
                parts.append((pre_NF, (kept.fired_NW[:, :, None] == ids_F).any(dim=1)))
        return thresholds_of(list(gather_object(parts)))


def thresholds_of(parts: Sequence[tuple[Tensor, Tensor]]) -> Thresholds:
    """The thresholds with the fewest disagreements on every other token, and how often they disagree on the rest.

    Args:
        parts: pre-activations `(N, F)`, and whether the SAE says that the features fire, of any number of tokens each.
    """
    chosen_on, measured_on = (
        tuple(torch.cat([part[which][start::2] for part in parts]) for which in (0, 1)) for start in (0, 1)
    )
    threshold_F = torch.tensor(
        [closest_threshold(pre_N, fires_N) for pre_N, fires_N in zip(*(one.T for one in chosen_on), strict=True)]
    )
    pre_NF, fires_NF = measured_on
    said_NF = pre_NF > threshold_F
    either_F = (said_NF | fires_NF).sum(0)
    wrong_F = (said_NF ^ fires_NF).sum(0)
    return Thresholds(threshold_F, torch.where(either_F > 0, wrong_F / either_F.clamp(min=1), 1.0))


def closest_threshold(pre_N: Tensor, fires_N: Tensor) -> float:
    """The threshold, at least 0, with the fewest mistakes about when a feature fires.

    Args:
        pre_N: pre-activations.
        fires_N: whether the SAE says that the feature fires; it never does at or below 0.

    Returns:
        The middle between the two neighbouring pre-activations. If it never fires, the largest pre-activation; if none
        is above 0, 0.

    Example:
        >>> closest_threshold(torch.tensor([0.5, 1.0, 2.0, 3.0]), torch.tensor([False, False, True, True]))
        1.5
    """
    above_N = pre_N > 0
    order = pre_N[above_N].argsort()
    pre_N, fires_N = pre_N[above_N][order], fires_N[above_N][order]
    if not len(pre_N):
        return 0.0
    # Above a threshold that lies after the first n: those of the n that fire are missed, the others must all fire.
    missed = torch.cat([torch.zeros(1), fires_N.cumsum(0)])
    false = torch.cat([torch.zeros(1), (~fires_N).cumsum(0)])
    n = int((missed + false[-1] - false).argmin())
    if n == len(pre_N):
        return float(pre_N[-1])
    return float((pre_N[n] + (pre_N[n - 1] if n else 0.0)) / 2)


def _indices(fires_NK: Tensor) -> Tensor:
    """`(N, W)` the features that fire on each token, filled up with `_ABSENT`."""
    token, feature = fires_NK.nonzero().cpu().unbind(dim=1)
    count_N = token.bincount(minlength=len(fires_NK))
    place = torch.arange(len(token)) - (count_N.cumsum(0) - count_N)[token]
    found_NW = torch.full((len(count_N), int(count_N.max())), _ABSENT, dtype=torch.int32)
    found_NW[token, place] = feature.int()
    return found_NW


def _highest(first: _Kept, second: _Kept, size: int) -> _Kept:
    """The tokens of both with the highest keys."""
    width = max(first.fired_NW.shape[1], second.fired_NW.shape[1])
    key_N = torch.cat([first.key_N, second.key_N])
    rows = key_N.topk(min(size, len(key_N))).indices
    filled = [pad(one.fired_NW, (0, width - one.fired_NW.shape[1]), value=_ABSENT) for one in (first, second)]
    fired_NW = torch.cat(filled)
    return _Kept(key_N[rows], torch.cat([first.residual_ND, second.residual_ND])[rows], fired_NW[rows])
