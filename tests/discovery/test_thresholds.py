"""Thresholds against every possible one, against the SAE's own encoding, and through the file of a feature set."""

# N tokens, D model width, K dictionary size, F selected features

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
import torch
from safetensors import safe_open

from sae_posttrain import FeatureSet
from sae_posttrain.discovery import discover_language_features
from sae_posttrain.discovery.thresholds import TokenSample, closest_threshold, thresholds_of
from sae_posttrain.feature_set.card import card_of
from sae_posttrain.sae import SparseAutoencoder, TopK
from sae_posttrain.sae.activations import JumpReLU, ReLU

WIDTH, FEATURES = 8, 24


def sae(activation: object, layer: int = 1, width: int = WIDTH) -> SparseAutoencoder:
    encoder_KD = torch.randn(FEATURES, width, generator=torch.Generator().manual_seed(layer))
    return SparseAutoencoder(
        encoder_KD,
        torch.zeros(FEATURES),
        encoder_KD,
        torch.zeros(width),
        activation,
        layer,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("seed", range(30))
def test_no_other_threshold_makes_fewer_mistakes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pre_N = torch.randn(12, generator=generator)
    fires_N = (pre_N > 0) & (pre_N + torch.randn(12, generator=generator) > 0.5)
    found = closest_threshold(pre_N, fires_N)
    others = [0.0, *pre_N.clamp(min=0).tolist()]
    mistakes = [int(((pre_N > other) != fires_N).sum()) for other in others]
    assert found >= 0
    assert int(((pre_N > found) != fires_N).sum()) == min(mistakes)


def test_thresholds_where_a_feature_never_fires() -> None:
    never = torch.zeros(3, dtype=torch.bool)
    assert closest_threshold(torch.tensor([-1.0, 0.5, 2.0]), never) == 2.0
    assert closest_threshold(torch.tensor([-1.0, -0.5, 0.0]), never) == 0.0
    found = thresholds_of([(torch.tensor([[1.0], [0.5]]), torch.zeros(2, 1, dtype=torch.bool))])
    assert found.disagreement.tolist() == [1.0]  # neither says that it fires: nothing was measured


def test_disagreement_counts_tokens_that_the_threshold_was_not_chosen_on() -> None:
    pre_NF = torch.tensor([1.0, 1.0, 3.0, 3.0, 1.0, 3.0])[:, None]
    fires_NF = torch.tensor([False, True, True, True, False, False])[:, None]
    found = thresholds_of([(pre_NF, fires_NF)])  # chosen on 1, 3, 1 and measured on 1, 3, 3
    assert found.threshold.tolist() == [2.0]
    assert found.disagreement.tolist() == pytest.approx([2 / 3])


def test_a_sample_keeps_as_many_tokens_of_each_group_and_what_fires_on_them() -> None:
    one = sae(TopK(4))
    sample = TokenSample(size=5)
    residual_ND = torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(1))
    for start in range(0, 40, 7):
        chunk_ND = residual_ND[start : start + 7]
        sample.add(1, "en", chunk_ND, (one.encode(chunk_ND) > 0).float())
    sample.add(1, "zh", residual_ND[:2], (one.encode(residual_ND[:2]) > 0).float())
    assert [len(kept.key_N) for kept in sample._kept.values()] == [5, 2]
    for kept in sample._kept.values():
        fires_NK = one.encode(kept.residual_ND) > 0
        assert [sorted(row[row >= 0].tolist()) for row in kept.fired_NW] == [
            row.nonzero()[:, 0].tolist() for row in fires_NK
        ]
    measured = sample.measure(one, [3, 7])
    parts = [
        (one.pre_activations(kept.residual_ND, [3, 7]), one.encode(kept.residual_ND)[:, [3, 7]] > 0)
        for kept in sample._kept.values()
    ]
    assert torch.allclose(measured.threshold, thresholds_of(parts).threshold)
    assert torch.equal(measured.disagreement, thresholds_of(parts).disagreement)


@pytest.mark.parametrize("activation", [ReLU(), JumpReLU(torch.linspace(-1, 1, FEATURES)), JumpReLU(torch.tensor(0.3))])
def test_thresholds_of_features_that_fire_by_themselves_are_exact(activation: object) -> None:
    one = sae(activation)
    ids = [2, 9, 20]
    found = TokenSample(4).measure(one, ids)
    residual_ND = torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(2))
    fires_NF = one.encode(residual_ND)[:, ids] > 0
    assert torch.equal(one.pre_activations(residual_ND, ids) > found.threshold, fires_NF)
    assert found.disagreement.tolist() == [0, 0, 0]


@pytest.fixture(scope="module")
def discovered() -> FeatureSet:
    words = [f"w{number}" for number in range(20)]
    tokenizer = tiny_models.word_tokenizer(words, "<pad>", "<end>")
    texts = {
        "en": [" ".join(words[(3 * n + i) % 10] for i in range(8)) for n in range(10)],
        "zh": [" ".join(words[10 + (7 * n + i) % 10] for i in range(8)) for n in range(10)],
    }
    model = tiny_models.qwen3(len(tokenizer))
    saes = {layer: sae(TopK(4), layer, tiny_models.WIDTH) for layer in (1, 2)}
    return discover_language_features(model, tokenizer, saes, texts, layers=[1, 2], progress=False)


def test_discovery_measures_thresholds_that_a_file_keeps(discovered: FeatureSet, tmp_path: Path) -> None:
    loaded = FeatureSet.load(discovered.save(tmp_path / "features.safetensors"))
    assert loaded.sha256 == discovered.sha256
    for ours, theirs in zip(loaded.layers, discovered.layers, strict=True):
        assert ours.threshold is not None
        assert theirs.threshold is not None
        assert torch.equal(ours.threshold, theirs.threshold)
        residual_D = torch.randn(3, 5, tiny_models.WIDTH)
        assert torch.equal(ours.fires(residual_D), ours.pre_activations(residual_D) > ours.threshold)
        assert ours.take([1]).fires(residual_D).shape == (3, 5, 1)
    mean = sum(float(layer.disagreement.sum()) for layer in loaded.layers if layer.disagreement is not None)
    count = sum(len(layer.ids) for layer in loaded.layers)
    assert loaded.disagreement == pytest.approx(mean / count)
    assert f"disagree on {mean / count:.1%} of the tokens" in card_of(loaded).text
    assert "threshold" in loaded.summary().splitlines()[0]


def test_a_file_without_thresholds_is_read_and_written_as_before(discovered: FeatureSet, tmp_path: Path) -> None:
    layers = tuple(replace(layer, threshold=None, disagreement=None) for layer in discovered.layers)
    path = replace(discovered, layers=layers).save(tmp_path / "features.safetensors")
    with safe_open(path, "pt") as opened:
        assert not [name for name in opened.keys() if "threshold" in name or "disagreement" in name]  # noqa: SIM118
        assert "measured" not in json.loads(opened.metadata()["sae_posttrain"])["layers"][0]
    old = FeatureSet.load(path)
    assert old.disagreement is None
    assert "threshold" not in old.summary()
    assert "Thresholds" not in card_of(old).text
    with pytest.raises(ValueError, match="no thresholds"):
        old.layers[0].fires(torch.zeros(tiny_models.WIDTH))
    broken = replace(discovered.layers[0], threshold=torch.zeros(9))
    with pytest.raises(ValueError, match="threshold of layer 1"):
        replace(discovered, layers=(broken,)).save(tmp_path / "broken.safetensors")
