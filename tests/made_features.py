"""Hand-made features for tiny models, for tests in any environment: torch alone is needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sae_posttrain.feature_set import FeatureSet, LayerFeatures, Provenance


def hand_made_features(layers: Sequence[int], width: int, blocks: int, languages: Sequence[str]) -> FeatureSet:
    """Two features for zh and one for ru in each layer; baselines differ by language and feature."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    made = tuple(
        LayerFeatures(
            layer=layer,
            ids=(5, 9, 2),
            targets=("zh", "zh", "ru"),
            encoder=draw(3, width),
            bias=draw(3),
            direction=draw(3, width),
            score=draw(3).abs(),
            typical=draw(3).abs() + 0.5,
            baselines={code: draw(3) for code in languages},
            activations={code: draw(3).abs() for code in languages},
        )
        for layer in layers
    )
    return FeatureSet(made, Provenance("tiny", width, blocks, "made-by-hand", {}, "", "monolinguality"))
