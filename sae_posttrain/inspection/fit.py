"""Measure how well an SAE reconstructs a model's residuals: a quick test of model, layer and normalisation."""

# B batch, S sequence, N tokens, D model width, K dictionary size

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..discovery.statistics import CHUNK_ELEMENTS
from ..discovery.tokens import first_tokens
from ..residual import inputs_device, read_residuals, text_config
from ..sae import SparseAutoencoder


@dataclass(frozen=True)
class Fit:
    """How one layer's SAE fits.

    Args:
        layer: the block it is for.
        tokens: number of residuals it was given.
        unexplained: block → share of the variance of its residuals that the SAE does not explain. It covers the SAE's
            own block and its two neighbours, which a mistake in counting layers would lead to.
        active: mean number of active features per token.
        dead: number of features that never fired.
        d_sae: number of features.
    """

    layer: int
    tokens: int
    unexplained: Mapping[int, float]
    active: float
    dead: int
    d_sae: int

    @property
    def complaint(self) -> str:
        """The mistake that the numbers indicate; empty if they indicate none."""
        own = self.unexplained[self.layer]
        if not math.isfinite(own):
            return (
                f"the SAE for layer {self.layer} or the model's residuals contain numbers that are not finite. "
                "Download the file again; if that does not help, run the model in another --dtype."
            )
        finite = {block: share for block, share in self.unexplained.items() if math.isfinite(share)}
        best = min(finite, key=lambda block: finite[block])
        if best != self.layer:
            return (
                f"the SAE for layer {self.layer} does not explain {own:.1%} of that layer's variance, but only "
                f"{self.unexplained[best]:.1%} of layer {best}'s. Layers are 0-based blocks, and an SAE reads the "
                "output of its block: check that the SAE's layers are counted in the same way."
            )
        if own > 0.9:
            return (
                f"the SAE for layer {self.layer} explains almost nothing ({own:.1%} of the variance is unexplained). "
                "It belongs to another model, or was trained on residuals of another scale."
            )
        return ""


@dataclass
class _Sums:
    """Sums over one block's residuals, in float64."""

    residual_D: Tensor
    square: float = 0.0
    error: float = 0.0


@dataclass
class _Tally:
    """Counts for one SAE, over the residuals of several blocks."""

    blocks: dict[int, _Sums]
    fired_K: Tensor
    tokens: int = 0
    active: float = 0.0


@torch.no_grad()
def measure_fit(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    saes: Mapping[int, SparseAutoencoder],
    texts: Sequence[str],
    *,
    batch_size: int = 8,
    max_length: int = 512,
) -> dict[int, Fit]:
    """Measure how well each SAE reconstructs the residuals of texts.

    The first token of each text is left out: its residual is unlike that of any other token.

    Args:
        model, tokenizer: the model and its tokenizer.
        saes: layer → SAE.
        texts: ordinary texts, of whole sentences.
        batch_size: texts per forward pass.
        max_length: number of tokens of each text that are read, at least 2.

    Returns:
        The fit of each layer's SAE.

    Raises:
        ValueError: the model has no such layer, an SAE has another width, or the texts have too few tokens.

    Example:
        >>> fits = measure_fit(model, tokenizer, {16: sae}, texts)
        >>> fits[16].complaint

    Source: our own.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected at least 1.")
    if max_length < 2:
        raise ValueError(f"max_length={max_length}: expected at least 2, because a text's first token is left out.")
    device = inputs_device(model)
    # One SAE at a time: they may not all fit in memory beside the model. Reading the texts again is cheap.
    return {
        layer: _measure(model, tokenizer, sae.to(device), texts, batch_size, max_length) for layer, sae in saes.items()
    }


def _measure(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sae: SparseAutoencoder,
    texts: Sequence[str],
    batch_size: int,
    max_length: int,
) -> Fit:
    tally = _tally(sae, text_config(model).num_hidden_layers)
    for start in range(0, len(texts), batch_size):
        encoded = first_tokens(tokenizer, texts[start : start + batch_size], max_length)
        sequences = [ids for ids in encoded if len(ids) > 1]
        if not sequences:
            continue
        residuals, mask_BS = read_residuals(model, tally.blocks, sequences)
        mask_BS[:, 0] = 0
        _add(tally, sae, {block: residual_BSD[mask_BS.bool()] for block, residual_BSD in residuals.items()})
    if not tally.tokens:
        raise ValueError("The texts have no token to count: the first of each is left out. Give whole sentences.")
    return _fit(sae.layer, tally)


def _tally(sae: SparseAutoencoder, depth: int) -> _Tally:
    layer = sae.layer
    blocks = [block for block in (layer - 1, layer, layer + 1) if 0 <= block < depth] if layer < depth else [layer]
    zeros = {block: _Sums(torch.zeros(sae.d_model, dtype=torch.float64, device=sae.encoder.device)) for block in blocks}
    return _Tally(zeros, torch.zeros(sae.d_sae, dtype=torch.bool, device=sae.encoder.device))


def _add(tally: _Tally, sae: SparseAutoencoder, counted: Mapping[int, Tensor]) -> None:
    for block, sums in tally.blocks.items():
        for residual_ND in counted[block].to(sae.encoder.device).split(max(1, CHUNK_ELEMENTS // sae.d_sae)):
            exact_ND = residual_ND.double()
            sums.residual_D += exact_ND.sum(0)
            sums.square += float(exact_ND.square().sum())
            activation_NK = sae.encode(residual_ND)
            sums.error += float((exact_ND - sae.reconstruct(residual_ND, activation_NK)).square().sum())
            if block == sae.layer:
                fires_NK = activation_NK > 0
                tally.fired_K |= fires_NK.any(0)
                tally.active += float(fires_NK.sum())
                tally.tokens += len(residual_ND)


def _fit(layer: int, tally: _Tally) -> Fit:
    unexplained = {block: sums.error / _variance(sums, block, tally.tokens) for block, sums in tally.blocks.items()}
    dead = int((~tally.fired_K).sum())
    return Fit(layer, tally.tokens, unexplained, tally.active / tally.tokens, dead, len(tally.fired_K))


def _variance(sums: _Sums, block: int, tokens: int) -> float:
    variance = sums.square - float(sums.residual_D.square().sum()) / tokens
    if variance <= 1e-9 * sums.square:  # not more than rounding errors
        raise ValueError(
            f"The texts have too few different tokens: {tokens} were counted, and their residuals at layer {block} are "
            "all equal. Give more texts, of whole sentences."
        )
    return variance
