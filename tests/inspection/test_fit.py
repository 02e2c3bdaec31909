"""How the fit of SAEs is measured; what the numbers are is tested with `sae info --check`."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor

from sae_posttrain.inspection.fit import Fit, measure_fit
from sae_posttrain.sae import SparseAutoencoder, TopK

WORDS = [f"w{number}" for number in range(20)]
LAYERS = (1, 2)


def random_sae(layer: int) -> SparseAutoencoder:
    encoder_KD = torch.randn(24, tiny_models.WIDTH, generator=torch.Generator().manual_seed(layer))
    return SparseAutoencoder(encoder_KD, torch.zeros(24), encoder_KD, torch.zeros(tiny_models.WIDTH), TopK(4), layer)


def measure(texts: Sequence[str]) -> dict[int, Fit]:
    tokenizer = tiny_models.word_tokenizer(WORDS, "<pad>", "<end>")
    model = tiny_models.qwen3(len(tokenizer))
    return measure_fit(model, tokenizer, {layer: random_sae(layer) for layer in LAYERS}, texts, batch_size=2)


def test_every_residual_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = dict.fromkeys(LAYERS, 0)
    original = SparseAutoencoder.encode

    def encode(sae: SparseAutoencoder, residual_ND: Tensor) -> Tensor:
        encoded[sae.layer] += len(residual_ND)
        return original(sae, residual_ND)

    monkeypatch.setattr(SparseAutoencoder, "encode", encode)
    fits = measure(["w1 w2 w3", "w4 w5", "w6 w7 w8 w9"])
    assert {layer: fit.tokens for layer, fit in fits.items()} == {1: 6, 2: 6}
    assert encoded == {1: 3 * 6, 2: 3 * 6}  # its own block and those beside it


def test_one_sae_at_a_time_is_where_the_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[weakref.ref[Tensor]] = []
    original = SparseAutoencoder.encoder_to

    def encoder_to(sae: SparseAutoencoder, *where: Any) -> SparseAutoencoder:
        assert not [one for one in moved if one() is not None]
        moved.append(weakref.ref(bias := sae.bias.clone()))
        return original(SparseAutoencoder(**{**vars(sae), "bias": bias}), *where)

    monkeypatch.setattr(SparseAutoencoder, "encoder_to", encoder_to)
    assert list(measure(["w1 w2 w3"])) == list(LAYERS)
    assert len(moved) == len(LAYERS)


def test_texts_without_a_second_token_are_refused() -> None:
    with pytest.raises(ValueError, match="no token to count"):
        measure(["w1"])


def test_a_block_beside_that_overflows_is_not_the_better_one() -> None:
    fit = Fit(1, 10, {0: math.nan, 1: 0.2, 2: math.inf}, 4.0, 0, 24)
    assert fit.complaint == ""
