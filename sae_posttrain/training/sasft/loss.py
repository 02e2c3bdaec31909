"""The SASFT loss as a pure function, and the tables with the baseline and weight of each feature in each language."""

# B batch, S sequence, D model width, F features of one layer, L languages, T suppressed languages

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from ...feature_set import LayerFeatures
from .reading import read_features
from .segments import BY_LANGUAGE, RowGroups

Baseline = Literal["mean", "zero"]
Scale = Literal["raw", "typical"]


def sasft_loss(
    pre_BSF: Tensor, baseline_LF: Tensor, weight_LF: Tensor, language_BS: Tensor, labelled_BS: Tensor
) -> Tensor:
    """Sum, over tokens and features, of the excess of pre-activations over the baseline of each token's language.

    The sum is not divided by the number of tokens. The caller normalises it like the trainer's cross-entropy.

    Args:
        pre_BSF: pre-activations.
        baseline_LF: baselines by language. The last row is for tokens of unknown language (index -1).
        weight_LF: factor of the excess; 0 if the feature belongs to the language.
        language_BS: row of the tables for each token.
        labelled_BS: which tokens have a label.

    Source: arXiv:2507.14894, L_reduce. Labels are not shifted: the activation at position t belongs to label t.
    """
    excess_BSF = (pre_BSF - baseline_LF[language_BS]).relu() * weight_LF[language_BS]
    # `where`, not a product: ignored positions may hold NaN, and 0 · NaN is NaN.
    return excess_BSF.where(labelled_BS[..., None], 0.0).sum()


@dataclass(frozen=True, eq=False)
class Penalty:
    """One layer's features, with the baseline and weight of each feature in each language.

    `known_L` says which languages have baselines. `target_TF` says to which of the T suppressed languages a feature
    belongs.
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
        """The residual that must replace the given one, and the pre-activations `(B, S, F)` in float32.

        The product is computed in the residual's own dtype, without a float32 copy of the residual.
        """
        dtype = residual_BSD.dtype
        rows_FD = self.encoder_FD.to(dtype)
        if dtype in (torch.bfloat16, torch.float16):
            # Rounding the rows would bias every pre-activation, so their rounding errors are used as further rows.
            rows_FD = torch.cat([rows_FD, (self.encoder_FD - rows_FD.float()).to(dtype)])
        with torch.autocast(residual_BSD.device.type, enabled=False):
            residual_BSD, read_BSF = read_features(residual_BSD, rows_FD)
        return residual_BSD, sum(read_BSF.float().split(len(self.encoder_FD), dim=-1), start=self.bias_F)


def build_penalty(
    features: LayerFeatures,
    suppress: Sequence[str],
    baseline: Baseline,
    scale: Scale,
    groups: RowGroups = BY_LANGUAGE,
) -> Penalty:
    """Build the tables of one layer. A feature is penalised in every language with a baseline except its own.

    The loss is averaged over the features of each suppressed language, and the losses of several suppressed languages
    are added. A language without a baseline uses that of a related language. If the related language is the suppressed
    one (zh for Cantonese), its answers are exempt too. Without a related language, answers are not penalised.

    Args:
        features: the features of the layer.
        suppress: codes of the languages to keep out of answers in other languages.
        baseline, scale: as in `SASFTCallback`.
        groups: what rows are told apart by: languages, or labels.
    """
    features = features.select(suppress)
    baseline_LF = torch.zeros(len(groups.names) + 1, len(features.ids))
    weight_LF = torch.zeros_like(baseline_LF)
    known_L = torch.zeros(len(groups.names) + 1, dtype=torch.bool)
    count = {target: features.targets.count(target) for target in features.targets}
    unit_F = torch.tensor([1 / count[target] for target in features.targets])
    if scale == "typical":
        unit_F = unit_F / features.typical
    for row, code in enumerate(groups.names):
        lender = next((one for one in groups.lenders(code) if one in features.baselines), None)
        if baseline == "mean":
            if lender is None:
                continue
            baseline_LF[row] = features.baselines[lender]
        weight_LF[row] = unit_F * torch.tensor([float(target not in (code, lender)) for target in features.targets])
        known_L[row] = True
    target_TF = torch.tensor([[float(target == code) for target in features.targets] for code in suppress])
    return Penalty(features.layer, features.encoder, features.bias, baseline_LF, weight_LF, known_L, target_TF)
