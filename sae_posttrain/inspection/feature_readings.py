"""What the features of one model do on units of texts: the sums that comparisons of models start from."""

# U units of texts, K dictionary size

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..discovery.statistics import (
    GroupSpan,
    LayerStatistics,
    TokenPassage,
    check_reading,
    share_of_process,
    sum_passages,
)
from ..discovery.tokens import first_tokens
from ..residual import text_config
from ..sae import SparseAutoencoder

Quantity: TypeAlias = Literal["activation", "firing", "pre_activation"]
"""Mean activation, share of tokens on which a feature fires, or mean pre-activation."""

MAX_UNITS = 96
MIN_UNITS = 8


@dataclass(frozen=True, eq=False)
class FeatureReading:
    """What the features of one model do on units of texts.

    A unit is a run of consecutive texts of one group. Units are what intervals and permutations draw, so that memory
    does not grow with the number of texts.

    Args:
        name: the model's name.
        groups: `U` names, the group that each unit belongs to.
        tokens: `(U,)` number of tokens read.
        sums: layer → quantity → `(U, K)` sum over the unit's tokens. `pre_activation` is absent where the SAE
            normalises each token.
    """

    name: str
    groups: tuple[str, ...]
    tokens: np.ndarray
    sums: Mapping[int, Mapping[Quantity, np.ndarray]]


def read_model_features(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    saes: Mapping[int, SparseAutoencoder],
    texts: Mapping[str, Sequence[str]],
    *,
    name: str,
    batch_size: int = 8,
    max_length: int = 512,
    progress: bool = True,
) -> FeatureReading:
    """Sum what the features of one model do on units of texts, for every layer that has an SAE, in one pass.

    The first token of each text does not count, as in discovery.

    Args:
        model, tokenizer: the model, and the tokenizer that all compared models share.
        saes: layer → SAE.
        texts: group → texts.
        name: the model's name in what is made of the reading.
        batch_size: texts per forward pass.
        max_length: number of tokens of each text that are read.
        progress: whether a progress bar is shown.

    Returns:
        The sums over each unit's tokens, the same on every process.

    Raises:
        ValueError: fewer than 8 texts, SAEs of a model of another width, or residuals that are not finite.

    Example:
        >>> reading = read_model_features(model, tokenizer, {16: sae}, {"en": ["Hello there."] * 8}, name="base")
        >>> reading.sums[16]["firing"].shape[0]
        8

    Source: arXiv:2605.11887, Eq. 13 (a feature fires where its activation is above zero).
    """
    check_reading(batch_size, max_length)
    _check_widths(model, saes, name)
    units = _units(texts)
    if len(units) < MIN_UNITS:
        count = sum(len(members) for members in texts.values())
        raise ValueError(f"Got {count} texts; a comparison needs at least {MIN_UNITS}, and better some dozens.")
    members = sorted(
        ((unit, text) for unit, (_, own) in enumerate(units) for text in own), key=lambda pair: len(pair[1])
    )
    batches = share_of_process(members, batch_size)

    def passages() -> Iterator[list[TokenPassage]]:
        for batch in batches:
            ids = first_tokens(tokenizer, [text for _, text in batch], max_length)
            yield [
                TokenPassage(one, [GroupSpan(str(unit), 1, len(one))])
                for (unit, _), one in zip(batch, ids, strict=True)
                if one
            ]

    names = [str(unit) for unit in range(len(units))]
    found = sum_passages(model, saes, names, passages, total=len(batches), progress=progress)
    layers = {layer: _sums(saes[layer], [of_unit[unit].cpu() for unit in names]) for layer, of_unit in found.items()}
    tokens = np.array([float(next(iter(found.values()))[unit].tokens) for unit in names])
    return FeatureReading(name, tuple(group for group, _ in units), tokens, layers)


def _check_widths(model: nn.Module, saes: Mapping[int, SparseAutoencoder], name: str) -> None:
    width = text_config(model).hidden_size
    for layer, sae in saes.items():
        if sae.d_model != width:
            raise ValueError(
                f"The SAE {sae.source} (layer {layer}) reads residuals of width {sae.d_model}, but those of {name} are "
                f"{width} wide: it was trained on another model."
            )


def _units(texts: Mapping[str, Sequence[str]]) -> list[tuple[str, list[str]]]:
    """The texts in runs of consecutive ones, each with its group. Consecutive rows may come from one document."""
    kept = {group: [text for text in members if text.strip()] for group, members in texts.items()}
    most = max(MIN_UNITS, MAX_UNITS // max(1, len(kept)))
    found = []
    for group, members in kept.items():
        count = min(most, len(members))
        bounds = [round(len(members) * unit / count) for unit in range(count + 1)] if count else []
        found += [(group, members[low:high]) for low, high in pairwise(bounds)]
    return found


def _sums(sae: SparseAutoencoder, statistics: Sequence[LayerStatistics]) -> dict[Quantity, np.ndarray]:
    sums: dict[Quantity, np.ndarray] = {
        "activation": torch.stack([one.activation for one in statistics]).numpy(),
        "firing": torch.stack([one.firing for one in statistics]).numpy(),
    }
    if sae.input_norm == "none":  # linear in the residual, so that the mean residual is enough
        mean_UD = torch.stack([one.residual / one.tokens.clamp(min=1) for one in statistics])
        tokens_U1 = torch.stack([one.tokens for one in statistics])[:, None]
        pre_UK = sae.pre_activations(mean_UD.to(sae.encoder.device)).double().cpu()
        sums["pre_activation"] = (pre_UK * tokens_U1).numpy()
    return sums
