"""Everything that reads residuals reads them in evaluation mode, and leaves each module in the mode it was in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import BLOCKS, WIDTH, qwen3, word_tokenizer
from torch import nn

from sae_posttrain.discovery.firing import collect_firing
from sae_posttrain.discovery.statistics import collect_statistics
from sae_posttrain.feature_set import FeatureSet, LayerFeatures, Provenance
from sae_posttrain.inspection.fit import measure_fit
from sae_posttrain.inspection.pre_activations import read_pre_activations
from sae_posttrain.residual import read_residuals
from sae_posttrain.sae import SparseAutoencoder, TopK

WORDS = [f"w{number}" for number in range(20)]
TEXTS = ["w1 w2 w3", "w4 w5 w6 w7 w8"]
IDS = [[3, 4, 5], [6, 7, 8, 9, 10]]
LAYER = 2
TOKENIZER = word_tokenizer(WORDS, "<pad>", "<end>")


def sae() -> SparseAutoencoder:
    encoder_KD = torch.randn(24, WIDTH, generator=torch.Generator().manual_seed(0))
    return SparseAutoencoder(encoder_KD, torch.zeros(24), encoder_KD, torch.zeros(WIDTH), TopK(4), LAYER)


def features() -> FeatureSet:
    vectors = {name: torch.eye(WIDTH)[:1].clone() for name in ("encoder", "direction")}
    numbers = {name: torch.ones(1) for name in ("bias", "score", "typical")}
    layer = LayerFeatures(LAYER, (3,), ("zh",), **vectors, **numbers, baselines={}, activations={})
    return FeatureSet((layer,), Provenance("m", WIDTH, BLOCKS, "sae", {}, "", "monolinguality"))


def partly_training() -> Any:
    """A model that trains but for one block. In training mode it drops half of what attention sees."""
    model = qwen3(len(TOKENIZER), attention_dropout=0.5).train()
    model.model.layers[1].eval()
    return model


READERS: dict[str, Callable[[Any], Any]] = {
    "residuals": lambda model: read_residuals(model, [LAYER], IDS)[0][LAYER],
    "statistics": lambda model: (
        collect_statistics(model, TOKENIZER, {LAYER: sae()}, {"en": TEXTS})[LAYER]["en"].residual
    ),
    "firing": lambda model: torch.tensor(
        collect_firing(model, TOKENIZER, {LAYER: sae()}, TEXTS, layers=[LAYER])[LAYER].counts()
    ),
    "fit": lambda model: torch.tensor(measure_fit(model, TOKENIZER, {LAYER: sae()}, TEXTS)[LAYER].unexplained[LAYER]),
    "pre-activations": lambda model: torch.cat([one[LAYER] for _, one in read_pre_activations(model, features(), IDS)]),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=list(READERS))
def test_evaluation_mode_inside_and_each_modules_own_mode_after(reader: Callable[[Any], Any]) -> None:
    model = partly_training()
    modes = [module.training for module in model.modules()]
    found = reader(model)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(found, reader(model.eval()))


@pytest.mark.parametrize("reader", READERS.values(), ids=list(READERS))
def test_modes_come_back_after_an_error(reader: Callable[[Any], Any]) -> None:
    def fail(module: nn.Module, args: Any) -> None:
        raise RuntimeError("out of memory")

    model = partly_training()
    modes = [module.training for module in model.modules()]
    model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        reader(model)
    assert [module.training for module in model.modules()] == modes
    assert not any(block._forward_hooks for block in model.model.layers)


def test_padding_changes_no_residual() -> None:
    model = partly_training()
    together, mask_BS = read_residuals(model, [0, LAYER], IDS)
    assert mask_BS.tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    for row, ids in enumerate(IDS):
        alone, _ = read_residuals(model, [0, LAYER], [ids])
        for layer, residual_BSD in together.items():
            torch.testing.assert_close(residual_BSD[row, : len(ids)], alone[layer][0])
