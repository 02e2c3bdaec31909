"""Verdicts of the OR-rule on a tiny real model, against the SAE's activations of one text at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import WIDTH, qwen3, word_tokenizer

from sae_posttrain import FeatureSet
from sae_posttrain.data import classify
from sae_posttrain.discovery.classes import discover_class_features
from sae_posttrain.sae import SparseAutoencoder
from sae_posttrain.sae.activations import TopK

TEXTS = ["the cat sees a house", "a house sings", "small cat", "cat", "the a house sees small cat sings", "sings sings"]
LAYERS = (0, 1)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer(TEXTS, "<pad>")


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return qwen3(len(tokenizer), seed=1, num_hidden_layers=2, initializer_range=0.3).eval()


@pytest.fixture(scope="module")
def saes() -> dict[int, SparseAutoencoder]:
    generator = torch.Generator().manual_seed(0)

    def one(layer: int) -> SparseAutoencoder:
        encoder, decoder = (torch.randn(40, WIDTH, generator=generator) for _ in range(2))
        bias = torch.randn(40, generator=generator)
        return SparseAutoencoder(encoder, bias, decoder, torch.zeros(WIDTH), TopK(4), layer, source=f"sae{layer}")

    return {layer: one(layer) for layer in LAYERS}


@pytest.fixture(scope="module")
def features(model: Any, tokenizer: Any, saes: Any) -> FeatureSet:
    texts = {"cats": [TEXTS[0], TEXTS[2], TEXTS[4]], "rest": [TEXTS[1], TEXTS[5]]}
    return discover_class_features(
        model, tokenizer, saes, texts, layers=LAYERS, combine="layers", sizes=[2], held_out=0.5, progress=False
    ).features


def residual(model: Any, tokenizer: Any, text: str, layer: int) -> torch.Tensor:
    """Of each token but the first, of one text at a time."""
    kept: list[torch.Tensor] = []
    handle = model.model.layers[layer].register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.no_grad():
        model(torch.tensor([tokenizer(text)["input_ids"]]))
    handle.remove()
    return kept[0][0][1:]


def activations(model: Any, tokenizer: Any, saes: Any, text: str, layer: int) -> torch.Tensor:
    """Of all features on each token but the first."""
    activation_SK: torch.Tensor = saes[layer].encode(residual(model, tokenizer, text, layer))
    return activation_SK


def test_a_verdict_names_every_feature_that_fires_and_its_strongest_token(
    model: Any, tokenizer: Any, saes: Any, features: FeatureSet
) -> None:
    verdicts = classify(model, tokenizer, features, TEXTS, sae=saes, batch_size=4)
    fired = 0
    for text, verdict in zip(TEXTS, verdicts, strict=True):
        expected = {}
        for layer in features.layers:
            activation_SK = activations(model, tokenizer, saes, text, layer.layer)
            for feature, target in zip(layer.ids, layer.targets, strict=True):
                if len(activation_SK) and activation_SK[:, feature].max() > 0:
                    place = int(activation_SK[:, feature].argmax())
                    expected[layer.layer, feature, target] = place, float(activation_SK[place, feature])
        found = {(one.layer, one.feature, one.target): one for one in verdict.evidence}
        assert found.keys() == expected.keys()
        for key, (place, peak) in expected.items():
            assert found[key].token == text.split()[place + 1]
            assert text[found[key].start : found[key].end] == found[key].token
            assert found[key].activation == pytest.approx(peak, rel=1e-4)
        assert verdict.targets == tuple(sorted({target for *_, target in expected}))
        fired += len(expected)
    assert 0 < fired < len(TEXTS) * sum(len(layer.ids) for layer in features.layers)
    assert verdicts[3].evidence == ()  # one token, which does not count


def test_without_an_sae_a_feature_fires_above_its_threshold(
    model: Any, tokenizer: Any, saes: Any, features: FeatureSet
) -> None:
    fired = 0
    for text, verdict in zip(TEXTS, classify(model, tokenizer, features, TEXTS, batch_size=4), strict=True):
        found = {(one.layer, one.feature, one.target) for one in verdict.evidence}
        for layer in features.layers:
            assert layer.threshold is not None
            pre_SF = saes[layer.layer].pre_activations(residual(model, tokenizer, text, layer.layer), layer.ids)
            for row, (feature, target) in enumerate(zip(layer.ids, layer.targets, strict=True)):
                above = float(pre_SF[:, row].max()) - float(layer.threshold[row]) if len(pre_SF) else -1.0
                if abs(above) > 1e-4:  # a threshold may be the pre-activation of one of these tokens
                    assert ((layer.layer, feature, target) in found) == (above > 0)
        fired += len(found)
    assert 0 < fired < len(TEXTS) * sum(len(layer.ids) for layer in features.layers)
    bare = replace(features, layers=tuple(replace(one, threshold=None, disagreement=None) for one in features.layers))
    with pytest.raises(ValueError, match="have no firing thresholds"):
        classify(model, tokenizer, bare, TEXTS)


def test_another_sae_is_refused(model: Any, tokenizer: Any, saes: Any, features: FeatureSet) -> None:
    other = {layer: SparseAutoencoder(**{**vars(one), "encoder": one.encoder.flip(0)}) for layer, one in saes.items()}
    with pytest.raises(ValueError, match="their encoder rows differ"):
        classify(model, tokenizer, features, TEXTS, sae=other)


def test_a_model_of_another_shape_is_refused(tokenizer: Any, saes: Any, features: FeatureSet) -> None:
    with pytest.raises(ValueError, match="Discover features for this model"):
        classify(qwen3(len(tokenizer), num_hidden_layers=3), tokenizer, features, TEXTS, sae=saes)
