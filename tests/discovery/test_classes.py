"""Discovery of classes on a tiny real model, against firing and residuals by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import WIDTH, qwen3, word_tokenizer

from sae_posttrain import FeatureSet
from sae_posttrain.discovery.classes import ClassDiscovery, discover_class_features
from sae_posttrain.discovery.or_rule import firing_contrast
from sae_posttrain.discovery.pooled import mean_residuals
from sae_posttrain.metrics.detection import Detection
from sae_posttrain.sae import SparseAutoencoder
from sae_posttrain.sae.activations import TopK

LAYERS = (0, 1)
ANIMALS, TOOLS = ["cat", "dog", "cow", "hen"], ["saw", "axe", "rake", "drill"]
FILLER = ["the", "big", "is", "and"]


def sentences(words: list[str], seed: int, number: int = 24) -> list[str]:
    """All fillers in some order, and one word that tells the class."""
    rng = np.random.default_rng(seed)
    rows = (rng.permutation(FILLER).tolist() for _ in range(number))
    return [" ".join([*row[:2], rng.choice(words), *row[2:]]) for row in rows]


TEXTS = {"animal": sentences(ANIMALS, 0), "tool": sentences(TOOLS, 1), "none": sentences(["is", "and"], 2)}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer((text for texts in TEXTS.values() for text in texts), "<pad>")


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return qwen3(len(tokenizer), seed=1, num_hidden_layers=2).eval()


@pytest.fixture(scope="module")
def saes(model: Any, tokenizer: Any) -> dict[int, SparseAutoencoder]:
    """Each feature reads one word, the first ones those of the classes; the other features never fire."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for layer in LAYERS:
        words = [tokenizer.convert_tokens_to_ids(word) for word in [*ANIMALS, *TOOLS, *FILLER]]
        encoder, bias = torch.randn(40, WIDTH, generator=generator), torch.full((40,), -1.0)
        # The dual basis of the embeddings, which are most of the residual: each feature is 1 on its own word.
        encoder[: len(words)] = torch.linalg.pinv(model.get_input_embeddings().weight[words].detach()).T
        bias[: len(words)] = -0.5
        made[layer] = SparseAutoencoder(
            encoder, bias, encoder.clone(), torch.zeros(WIDTH), TopK(4), layer, source=f"sae{layer}"
        )
    return made


def discover(model: Any, tokenizer: Any, saes: Any, **changes: Any) -> ClassDiscovery:
    settings: dict[str, Any] = {"layers": LAYERS, "progress": False, **changes}
    return discover_class_features(model, tokenizer, saes, settings.pop("texts", TEXTS), **settings)


@pytest.fixture(scope="module")
def found(model: Any, tokenizer: Any, saes: Any) -> ClassDiscovery:
    return discover(model, tokenizer, saes)


def test_each_class_has_the_features_of_its_rule(found: ClassDiscovery) -> None:
    assert found.features.targets == ("animal", "none", "tool")
    for rule in found.rules:
        kept = [
            (layer.layer, feature, float(layer.score[row]))
            for layer in found.features.layers
            for row, (feature, target) in enumerate(zip(layer.ids, layer.targets, strict=True))
            if target == rule.target
        ]
        assert kept == [(one.layer, one.feature, pytest.approx(one.contrast)) for one in rule.features]
        positive_E = np.array(found.labels) == rule.target
        (layer,) = {one.layer for one in rule.features}
        contrast_K = firing_contrast(found.firing[layer], positive_E, ~found.held_out_E)
        assert rule.features[0].contrast == pytest.approx(contrast_K.max())
        held_out = Detection.of(rule.detects(found.firing)[found.held_out_E], positive_E[found.held_out_E])
        assert rule.held_out[len(rule.features)] == held_out


def test_the_held_out_part_has_the_same_share_of_every_class(found: ClassDiscovery) -> None:
    labels_E = np.array(found.labels)
    assert {name: int(found.held_out_E[labels_E == name].sum()) for name in TEXTS} == dict.fromkeys(TEXTS, 5)


def test_the_features_of_the_planted_words_tell_the_class(model: Any, tokenizer: Any, saes: Any) -> None:
    (rule,) = discover(model, tokenizer, saes, sizes=[4], targets=["animal"]).rules
    assert {one.feature for one in rule.features} == {0, 1, 2, 3}
    assert rule.held_out[4].recall == 1
    assert rule.held_out[4].f1 > 0.7  # saying yes to everything has 0.5


def test_the_random_control_takes_as_many_other_features(
    found: ClassDiscovery, model: Any, tokenizer: Any, saes: Any
) -> None:
    control = discover(model, tokenizer, saes, select="random", targets=["animal"])
    assert control.features.provenance.selection == "random"
    (rule,) = control.rules
    real = next(one for one in found.rules if one.target == "animal")
    assert len(rule.features) == len(real.features)
    assert not {(one.layer, one.feature) for one in rule.features} & {(one.layer, one.feature) for one in real.features}
    assert rule.held_out[len(rule.features)].f1 < real.held_out[len(real.features)].f1


def test_several_layers_give_one_feature_each(model: Any, tokenizer: Any, saes: Any) -> None:
    found = discover(model, tokenizer, saes, combine="layers", sizes=[2], targets=["tool"])
    assert sorted(one.layer for one in found.rules[0].features) == [0, 1]


def test_the_set_is_saved_with_its_numbers(found: ClassDiscovery, tmp_path: Any) -> None:
    loaded = FeatureSet.load(found.features.save(tmp_path / "classes.safetensors"))
    assert loaded.targets == found.features.targets
    assert loaded.groups == ("animal", "none", "tool")
    assert loaded.provenance.selection == "firing rate"


def test_mean_residuals_are_those_of_one_text_at_a_time(model: Any, tokenizer: Any) -> None:
    texts = [*TEXTS["tool"][:3], "cat", "the cat is"]
    means = mean_residuals(model, tokenizer, texts, layers=LAYERS, batch_size=2, progress=False)
    for e, text in enumerate(texts):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = model(ids, output_hidden_states=True).hidden_states[1:]
        # The last of the hidden states is after the final norm, so only layer 0 is compared with it.
        expected = states[0][0][1:].mean(0) if ids.shape[1] > 1 else torch.zeros(WIDTH)
        assert torch.allclose(torch.tensor(means[0][e]), expected, atol=1e-5)
    assert means[1].shape == (5, WIDTH)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"texts": {"a": ["x y"]}}, "Texts of 1 class"),
        ({"targets": ["plant"]}, "No texts of plant"),
        ({"targets": []}, "expected at least one class"),
        ({"held_out": 1.0}, "between 0 and 1"),
        ({"texts": {"a": ["x y"], "b": ["x y", "y x"]}}, "a has 1 text"),
        ({"sizes": [0]}, "expected numbers of features of at least 1"),
        ({"select": "all"}, "expected 'firing rate' or 'random'"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], says: str, model: Any, tokenizer: Any, saes: Any) -> None:
    with pytest.raises(ValueError, match=says):
        discover(model, tokenizer, saes, **changes)
