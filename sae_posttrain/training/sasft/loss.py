"""The SASFT loss as a pure function, and the tables of baselines and weights for each language and feature."""

# B batch, S sequence, D model width, F features of one layer, L languages, T suppressed languages

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from ...feature_set import LayerFeatures
from ...languages import stand_ins
from .reading import read_features
from .segments import CODES

Baseline = Literal["mean", "zero"]
Scale = Literal["raw", "typical"]


def sasft_loss(
    pre_BSF: Tensor, baseline_LF: Tensor, weight_LF: Tensor, language_BS: Tensor, labelled_BS: Tensor
) -> Tensor:
    """Sum over tokens and features of the pre-activations' excess over the baseline of each token's language.

    Not divided by the number of tokens: the caller does that as its trainer divides the cross-entropy.

    Args:
        pre_BSF: pre-activations.
        baseline_LF: per language; the last row belongs to tokens of no known language (index -1).
        weight_LF: what an excess counts; 0 where a feature belongs to the language.
        language_BS: row of the tables for each token.
        labelled_BS: which tokens have a label.

    Source: arXiv:2507.14894, L_reduce. Labels are not shifted: position t's activation goes with label t.
    """
    excess_BSF = (pre_BSF - baseline_LF[language_BS]).relu() * weight_LF[language_BS]
    # `where`, not a product: ignored positions may hold NaN, and 0 · NaN is NaN.
    return excess_BSF.where(labelled_BS[..., None], 0.0).sum()


@dataclass(frozen=True, eq=False)
class Penalty:
    """One layer's features with, for every language, the baseline and the weight of each feature.

    `known_L` says which languages can be judged, `target_TF` which of the T suppressed languages a feature is of.
    """

    layer: int
    encoder_FD: Tensor
    bias_F: Tensor
    baseline_LF: Tensor
    weight_LF: Tensor
    known_L: Tensor
    target_TF: Tensor

    def to(self, device: torch.device) -> Penalty:
        tensors = (getattr(self, field.name).to(device) for field in fields(self)[1:])
        return Penalty(self.layer, *tensors)

    def read(self, residual_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """The residual to go on with, and the pre-activations `(B, S, F)` in float32.

        The product runs in the residual's own dtype, without a wider copy of it.
        """
        dtype = residual_BSD.dtype
        rows_FD = self.encoder_FD.to(dtype)
        if dtype in (torch.bfloat16, torch.float16):
            # Rounding the rows would bias every pre-activation. The rounding errors are a second set of rows.
            rows_FD = torch.cat([rows_FD, (self.encoder_FD - rows_FD.float()).to(dtype)])
        with torch.autocast(residual_BSD.device.type, enabled=False):
            residual_BSD, read_BSF = read_features(residual_BSD, rows_FD)
        return residual_BSD, sum(read_BSF.float().split(len(self.encoder_FD), dim=-1), start=self.bias_F)


def build_penalty(features: LayerFeatures, suppress: Sequence[str], baseline: Baseline, scale: Scale) -> Penalty:
    """Tables for one layer: a feature is penalised in every language with a baseline but the one it stands for.

    Each suppressed language's features are averaged, so that the loss of several languages is the sum of their
    losses. A language without a baseline borrows that of a relative, and shares its exemption when the relative is
    the suppressed language (Cantonese and zh); without a relative it is not penalised.
    """
    features = features.select(suppress)
    baseline_LF = torch.zeros(len(CODES) + 1, len(features.ids))
    weight_LF = torch.zeros_like(baseline_LF)
    known_L = torch.zeros(len(CODES) + 1, dtype=torch.bool)
    count = {target: features.targets.count(target) for target in features.targets}
    unit_F = torch.tensor([1 / count[target] for target in features.targets])
    if scale == "typical":
        unit_F = unit_F / features.typical
    for row, code in enumerate(CODES):
        lender = next((one for one in (code, *stand_ins(code)) if one in features.baselines), None)
        if baseline == "mean":
            if lender is None:
                continue
            baseline_LF[row] = features.baselines[lender]
        weight_LF[row] = unit_F * torch.tensor([float(target not in (code, lender)) for target in features.targets])
        known_L[row] = True
    target_TF = torch.tensor([[float(target == code) for target in features.targets] for code in suppress])
    return Penalty(features.layer, features.encoder, features.bias, baseline_LF, weight_LF, known_L, target_TF)
