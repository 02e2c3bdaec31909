"""Training warns of features that are active where their target is not, and only of those that it uses."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import BLOCKS, WIDTH, qwen3

from sae_posttrain import FeatureSet
from sae_posttrain.feature_set import LayerFeatures, Provenance
from sae_posttrain.training.sasft.features_term import FeaturesTerm


@pytest.mark.parametrize(
    ("suppress", "weight", "main_process", "warned"),
    [("zh", 1.0, True, ["feature 3 (for zh)"]), ("ko", 1.0, True, []), ("zh", 0.0, True, []), ("zh", 1.0, False, [])],
)
def test_only_used_features_are_warned_of(
    suppress: str, weight: float, main_process: bool, warned: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    layer = LayerFeatures(
        layer=1,
        ids=(3, 5),
        targets=("zh", "ko"),
        encoder=torch.randn(2, WIDTH),
        bias=torch.randn(2),
        direction=torch.randn(2, WIDTH),
        score=torch.ones(2),
        typical=torch.ones(2),
        baselines={"zh": torch.zeros(2), "ko": torch.zeros(2)},
        activations={"zh": torch.tensor([1.0, 0.0]), "ko": torch.tensor([0.9, 1.0])},
    )
    features = FeatureSet((layer,), Provenance("tiny", WIDTH, BLOCKS, "sae", {}, "", "monolinguality"))
    trainer: Any = SimpleNamespace(model=qwen3(32), is_world_process_zero=lambda: main_process)
    with caplog.at_level(logging.WARNING):
        FeaturesTerm(features, [suppress], weight).check(trainer)
    assert len(caplog.messages) == len(warned)
    for message, part in zip(caplog.messages, warned, strict=True):
        assert part in message
