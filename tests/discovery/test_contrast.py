"""Contrast features against a count by hand over single texts, planted concepts, and the command."""

# S sequence, D model width, K dictionary size

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor

from sae_posttrain import FeatureSet, discover_contrast_features
from sae_posttrain.cli import main
from sae_posttrain.discovery.dense import DENSE
from sae_posttrain.sae import SparseAutoencoder, TopK

WORDS = [f"w{number}" for number in range(20)]
RUDE = ["w1 w2 w3 w4", "w2 w5 w6", "w1 w3 w3 w2 w7"]
KIND = ["w11 w12 w13 w4", "w15 w16", "w11 w13 w17 w12 w18"]
NAMES: Any = {"name": "rude", "negative_name": "kind"}
LAYERS = [1, 2]


def random_sae(layer: int) -> SparseAutoencoder:
    encoder_KD = torch.randn(30, tiny_models.WIDTH, generator=torch.Generator().manual_seed(layer))
    return SparseAutoencoder(encoder_KD, torch.zeros(30), encoder_KD, torch.zeros(tiny_models.WIDTH), TopK(4), layer)


SAES = {layer: random_sae(layer) for layer in LAYERS}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_models.word_tokenizer(WORDS, "<pad>", "<end>")


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return tiny_models.qwen3(len(tokenizer))


def residuals(model: Any, tokenizer: Any, layer: int, text: str) -> Tensor:
    """`(S, D)` without the first position, by `output_hidden_states`."""
    with torch.no_grad():
        states = model(torch.tensor([tokenizer(text)["input_ids"]]), output_hidden_states=True).hidden_states
    residual_SD: Tensor = states[layer + 1][0][1:]
    return residual_SD


def by_hand(model: Any, tokenizer: Any, layer: int, by: str) -> Tensor:
    """`(K,)` contrast, one text at a time."""
    values = []
    for texts in (RUDE, KIND):
        encoded = [SAES[layer].encode(residuals(model, tokenizer, layer, text)) for text in texts]
        if by == "activation":
            values.append(torch.cat(encoded).mean(0))
        else:
            values.append(torch.stack([(one > 0).any(0) for one in encoded]).float().mean(0))
    return values[0] - values[1]


def found_by(model: Any, tokenizer: Any, **settings: Any) -> FeatureSet:
    return discover_contrast_features(
        *(model, tokenizer, SAES, RUDE, KIND), layers=LAYERS, **NAMES, batch_size=2, progress=False, **settings
    )


@pytest.mark.parametrize("by", ["activation", "firing"])
def test_the_scores_are_those_of_a_count_by_hand(model: Any, tokenizer: Any, by: str) -> None:
    features = found_by(model, tokenizer, by=by, top=3)
    assert features.provenance.selection == f"contrast of {by}"
    assert features.targets == ("rude",)
    for layer in features.layers:
        score_K = by_hand(model, tokenizer, layer.layer, by)
        assert torch.allclose(layer.score, score_K[list(layer.ids)].float(), atol=1e-5)
        assert sorted(layer.score.tolist()) == pytest.approx(sorted(score_K.topk(3).values.tolist()), abs=1e-5)
        pre_F = torch.cat([layer.pre_activations(residuals(model, tokenizer, layer.layer, text)) for text in KIND])
        assert torch.allclose(layer.baselines["kind"], pre_F.mean(0), atol=1e-5)
        assert set(layer.activations) == {"rude", "kind"}
        assert layer.threshold is not None


def test_random_features_are_others_and_dense_is_the_difference_of_means(model: Any, tokenizer: Any) -> None:
    chosen, drawn = found_by(model, tokenizer), found_by(model, tokenizer, select="random", seed=3)
    for ours, theirs in zip(chosen.layers, drawn.layers, strict=True):
        assert not set(ours.ids) & set(theirs.ids)
    dense = discover_contrast_features(
        *(model, tokenizer, None, RUDE, KIND), layers=LAYERS, **NAMES, select="dense", progress=False
    )
    assert dense.provenance.selection == DENSE
    for layer in dense.layers:
        means = [
            torch.cat([residuals(model, tokenizer, layer.layer, text) for text in texts]).mean(0)
            for texts in (RUDE, KIND)
        ]
        written_D = layer.direction[0] * (means[0] - means[1]).norm()
        assert torch.allclose(written_D, means[0] - means[1], atol=1e-4)


def test_bad_settings_are_refused(model: Any, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="expected 'activation' or 'firing'"):
        found_by(model, tokenizer, by="size")
    with pytest.raises(ValueError, match="takes no SAE"):
        found_by(model, tokenizer, select="dense")
    with pytest.raises(ValueError, match="two different names"):
        discover_contrast_features(model, tokenizer, SAES, RUDE, KIND, layers=[1], name="kind", negative_name="kind")
    with pytest.raises(ValueError, match="No texts for kind"):
        discover_contrast_features(model, tokenizer, SAES, RUDE, [], layers=[1], **NAMES)
    with pytest.raises(ValueError, match="rude and kind hold the same texts"):
        discover_contrast_features(model, tokenizer, SAES, RUDE, RUDE[::-1], layers=[1], **NAMES, progress=False)
    nothing_DK = torch.zeros(30, tiny_models.WIDTH)
    silent = {1: SparseAutoencoder(nothing_DK, torch.zeros(30), nothing_DK, torch.zeros(tiny_models.WIDTH), TopK(4), 1)}
    with pytest.raises(ValueError, match="more active in the texts of rude than in those of kind"):
        discover_contrast_features(model, tokenizer, silent, RUDE, KIND, layers=[1], **NAMES, progress=False)


def test_few_and_shared_texts_are_named(model: Any, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    negative = [*KIND, RUDE[0], *(f"{text} w19" for text in KIND), *(f"{text} w9" for text in KIND)]
    discover_contrast_features(model, tokenizer, SAES, RUDE, negative, layers=[1], **NAMES, progress=False)
    assert "1 of 12 texts are in several of rude, kind" in caplog.text
    assert "rude has only 3 different texts." in caplog.text
    assert "kind has only" not in caplog.text


def test_the_command_prints_and_writes_them(
    model: Any, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    tiny_models.write_saes(tmp_path / "SAE-tiny-L0_4", range(4), d_sae=40, width=tiny_models.WIDTH)
    for name, texts in (("rude", RUDE), ("kind", KIND)):
        (tmp_path / f"{name}.txt").write_text("\n".join(texts), encoding="utf-8")
    command = ["discover", "contrast", "--model", str(tmp_path / "model"), "--layers", "1", "2", "--name", "rude"]
    command += ["--positive", str(tmp_path / "rude.txt"), "--negative", str(tmp_path / "kind.txt")]
    command += ["--negative-name", "kind", "--output", str(tmp_path / "features.safetensors")]
    assert main([*command, "--sae", str(tmp_path / "SAE-tiny-L0_4")]) == 0
    features = FeatureSet.load(tmp_path / "features.safetensors")
    assert features.targets == ("rude",)
    assert features.summary() in capsys.readouterr().out
    assert main(["features", "show", str(tmp_path / "features.safetensors"), "--targets", "rude"]) == 0
    assert "disagree on" in capsys.readouterr().out
    assert main(command) == 2
    assert "--select contrast needs --sae" in capsys.readouterr().err
