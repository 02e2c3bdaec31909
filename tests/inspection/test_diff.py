"""A model diff: against a reading by hand, with a planted change, with noise, and with a LoRA adapter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_models
import torch

from sae_posttrain.inspection.contexts import top_activations
from sae_posttrain.inspection.diff import diff_models, diff_readings
from sae_posttrain.inspection.feature_readings import MAX_UNITS, read_model_features
from sae_posttrain.sae import SparseAutoencoder, TopK

WORDS = [f"w{number}" for number in range(20)]
LAYERS = (1, 2)
PLANTED = 9


def random_sae(layer: int) -> SparseAutoencoder:
    encoder_KD = torch.randn(24, tiny_models.WIDTH, generator=torch.Generator().manual_seed(layer))
    return SparseAutoencoder(encoder_KD, torch.zeros(24), encoder_KD, torch.zeros(tiny_models.WIDTH), TopK(4), layer)


SAES = {layer: random_sae(layer) for layer in LAYERS}


def some_texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(4, 9))) for _ in range(count)]


TEXTS = {"one": some_texts(30), "other": some_texts(20, seed=1)}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_models.word_tokenizer(WORDS, "<pad>", "<end>")


def a_model(tokenizer: Any, noise: int = 0, planted: float = 0.0) -> Any:
    """The same random model, with small noise in its weights, and one direction added to the last block's output."""
    model = tiny_models.qwen3(len(tokenizer), initializer_range=0.3).eval()
    generator = torch.Generator().manual_seed(noise)
    with torch.no_grad():
        for parameter in model.parameters():
            if noise:
                parameter += 0.003 * torch.randn(parameter.shape, generator=generator)
    if planted:
        direction_D = SAES[2].encoder[PLANTED]
        model.model.layers[2].register_forward_hook(lambda block, args, output: output + planted * direction_D)
    return model


def test_a_reading_sums_what_each_unit_does(tokenizer: Any) -> None:
    model = a_model(tokenizer)
    texts = {"a": TEXTS["one"][:10]}
    reading = read_model_features(model, tokenizer, SAES, texts, name="m", batch_size=3, progress=False)
    assert reading.groups == ("a",) * 10
    for unit, text in enumerate(texts["a"]):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        states = model(ids, output_hidden_states=True).hidden_states
        for layer in LAYERS:
            residual_SD = states[layer + 1][0, 1:].detach()
            assert reading.tokens[unit] == len(residual_SD)
            expected = {
                "activation": SAES[layer].encode(residual_SD).sum(0),
                "firing": (SAES[layer].encode(residual_SD) > 0).sum(0),
                "pre_activation": SAES[layer].pre_activations(residual_SD).sum(0),
            }
            for quantity, sums_K in expected.items():
                np.testing.assert_allclose(reading.sums[layer][quantity][unit], sums_K.numpy(), atol=1e-4)


def test_many_texts_make_no_more_units(tokenizer: Any) -> None:
    model = a_model(tokenizer)
    many = {"a": some_texts(130), "b": some_texts(70)}
    reading = read_model_features(model, tokenizer, SAES, many, name="m", batch_size=64, progress=False)
    assert len(reading.groups) == MAX_UNITS
    assert reading.groups.count("a") == MAX_UNITS // 2
    few = read_model_features(model, tokenizer, SAES, {"a": some_texts(130)[:8]}, name="m", progress=False)
    assert len(few.groups) == 8
    assert reading.tokens.sum() == sum(len(text.split()) - 1 for texts in many.values() for text in texts)


def test_a_planted_change_ranks_first_and_noise_does_not(tokenizer: Any) -> None:
    base, tuned = a_model(tokenizer), a_model(tokenizer, noise=1, planted=0.5)
    noise = {"seed 2": a_model(tokenizer, noise=2), "seed 3": a_model(tokenizer, noise=3)}
    found = diff_models(base, tuned, tokenizer, SAES, TEXTS, layers=LAYERS, noise=noise, progress=False)
    first = found.ranking(1)[0]
    assert (first.layer, first.feature) == (2, PLANTED)
    assert first.score > (found.largest_noise() or 0) * 2
    assert found.layers[2].p_value[PLANTED] < 0.01
    assert found.layers[2].false_share[PLANTED] < 0.5
    assert found.beyond_noise(1) == 0
    assert set(found.layers[2].by_group) == {"one", "other"}
    # The control: a third seed of the noise in the tuned model's place.
    plain = diff_models(
        base, a_model(tokenizer, noise=4), tokenizer, SAES, TEXTS, layers=LAYERS, noise=noise, progress=False
    )
    assert abs(plain.ranking(1)[0].score) < first.score / 2
    assert sum(plain.beyond_noise(layer) or 0 for layer in LAYERS) <= 2
    assert min(one.false_share.min() for one in plain.layers.values()) > 0.3


def test_a_model_does_not_differ_from_itself(tokenizer: Any) -> None:
    model = a_model(tokenizer)
    found = diff_models(model, model, tokenizer, SAES, TEXTS, layers=LAYERS, permutations=20, progress=False)
    assert found.ranking() == []
    assert all((one.p_value == 1).all() and np.isnan(one.false_share).all() for one in found.layers.values())
    assert found.beyond_noise(1) is None


def test_a_lora_adapter_is_read_as_a_model(tokenizer: Any) -> None:
    peft = pytest.importorskip("peft")
    base = a_model(tokenizer)
    adapted = peft.get_peft_model(a_model(tokenizer), peft.LoraConfig(target_modules=["q_proj"], r=2)).eval()
    found = diff_models(base, adapted, tokenizer, SAES, TEXTS, layers=LAYERS, permutations=20, progress=False)
    assert found.ranking() == []  # a fresh adapter changes nothing
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    changed = diff_models(base, adapted, tokenizer, SAES, TEXTS, layers=LAYERS, permutations=20, progress=False)
    assert changed.ranking(1)


def test_readings_of_other_texts_are_refused(tokenizer: Any) -> None:
    model = a_model(tokenizer)
    readings = [
        read_model_features(model, tokenizer, SAES, {"a": texts}, name=name, progress=False)
        for name, texts in (("first", TEXTS["one"]), ("second", TEXTS["other"]))
    ]
    with pytest.raises(ValueError, match="second and first were read on other texts"):
        diff_readings(*readings)
    with pytest.raises(ValueError, match="by='mean'"):
        diff_readings(readings[0], readings[0], by="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Got 3 texts"):
        read_model_features(model, tokenizer, SAES, {"a": TEXTS["one"][:3]}, name="few", progress=False)


def test_noise_models_of_one_name_are_refused(tokenizer: Any) -> None:
    reading = read_model_features(a_model(tokenizer), tokenizer, SAES, TEXTS, name="seed 1", progress=False)
    with pytest.raises(ValueError, match="noise models are named seed 1, seed 1: give each reading another name"):
        diff_readings(reading, reading, noise=[reading, reading], permutations=2)


def test_top_activations_are_those_of_the_sae(tokenizer: Any) -> None:
    model = a_model(tokenizer)
    features = {1: [3, 7], 2: [PLANTED]}
    found = top_activations(model, tokenizer, SAES, features, TEXTS, top=2, around=1)
    assert [(one.layer, one.feature) for one in found] == [(1, 3), (1, 7), (2, PLANTED)]
    for one in found:
        peaks = []
        for group, texts in TEXTS.items():
            for text in texts:
                ids = torch.tensor([tokenizer(text)["input_ids"]])
                residual_SD = model(ids, output_hidden_states=True).hidden_states[one.layer + 1][0].detach()
                values_S = SAES[one.layer].encode(residual_SD)[1:, one.feature]
                if values_S.max() > 0:
                    peaks.append((float(values_S.max()), group))
        peaks.sort(reverse=True)
        assert [context.peak for context in one.contexts] == pytest.approx([peak for peak, _ in peaks[:2]], abs=1e-4)
    with pytest.raises(ValueError, match="Feature 24 is out of range"):
        top_activations(model, tokenizer, SAES, {1: [24]}, TEXTS)
    with pytest.raises(ValueError, match="No SAE was given for layer 0"):
        top_activations(model, tokenizer, SAES, {0: [1]}, TEXTS)
