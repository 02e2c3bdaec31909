"""Discovery against plain loops over one text at a time, on a tiny real model and SAEs in the published layout."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import WIDTH, qwen3, word_tokenizer, write_saes
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from sae_posttrain import FeatureSet, discover_language_features, load_sae
from sae_posttrain.discovery import statistics
from sae_posttrain.discovery.monolinguality import monolinguality

LAYERS, DICTIONARY, K = 3, 40, 4
TEXTS = {
    "en": ["the cat sees a house", "a house sings", "the small cat", "cat the a house sings small sees"],
    "zh": ["猫 看见 房子", "小 房子 唱歌 猫", "唱歌 唱歌"],
    "ru": ["кошка видит дом", "дом поёт"],
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer((text for texts in TEXTS.values() for text in texts), "<pad>")


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    return qwen3(len(tokenizer), seed=1, num_hidden_layers=LAYERS, initializer_range=0.3).eval()


@pytest.fixture(scope="module")
def sae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saes") / f"SAE-Res-tiny-W{DICTIONARY}-L0_{K}"
    return write_saes(folder, range(LAYERS), DICTIONARY, WIDTH, seed=2)


def residual_by_hand(model: Qwen3ForCausalLM, ids: list[int], layer: int) -> Tensor:
    kept: list[Tensor] = []
    handle = model.model.layers[layer].register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.no_grad():
        model(torch.tensor([ids]))
    handle.remove()
    return kept[0][0]


def tokens_by_hand(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], layer: int
) -> Tensor:
    """Residuals of all tokens but each text's first."""
    return torch.cat([residual_by_hand(model, tokenizer(text)["input_ids"], layer)[1:] for text in texts]).double()


def means_by_hand(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path, layer: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Mean activation and mean pre-activation of every feature per language, from the file's own tensors."""
    file = torch.load(folder / f"layer{layer}.sae.pt", weights_only=True)
    activations, pre_activations = {}, {}
    for code, texts in TEXTS.items():
        pre = tokens_by_hand(model, tokenizer, texts, layer) @ file["W_enc"].double().T + file["b_enc"].double()
        kept = pre >= pre.topk(K, dim=-1).values[:, -1:]
        activations[code] = (pre.clamp(min=0) * kept).mean(0)
        pre_activations[code] = pre.mean(0)
    return activations, pre_activations


def discover(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, sae: Any, **changes: Any) -> FeatureSet:
    texts: Mapping[str, Sequence[str]] = changes.pop("texts", TEXTS)
    settings: dict[str, Any] = {"layers": [1, 2], "top": 3, "batch_size": 2, "progress": False, **changes}
    return discover_language_features(model, tokenizer, sae, texts, **settings)


def test_scores_ranking_and_baselines_equal_those_by_hand(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, sae_folder: Path
) -> None:
    features = discover(model, tokenizer, sae_folder)
    for layer in features.layers:
        activations, pre_activations = means_by_hand(model, tokenizer, sae_folder, layer.layer)
        for target in TEXTS:
            others = torch.stack([activations[code] for code in TEXTS if code != target]).mean(0)
            nu = activations[target] - others
            expected = [f for f in nu.argsort(descending=True).tolist()[:3] if nu[f] > 0]
            rows = [row for row, code in enumerate(layer.targets) if code == target]
            assert [layer.ids[row] for row in rows] == expected
            assert torch.allclose(layer.score[rows].double(), nu[expected], atol=1e-5)
        ids = list(layer.ids)
        for code in TEXTS:
            assert torch.allclose(layer.baselines[code].double(), pre_activations[code][ids], atol=1e-5)
            assert torch.allclose(layer.activations[code].double(), activations[code][ids], atol=1e-5)


def test_features_that_fire_in_another_language_can_be_left_out(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, sae_folder: Path
) -> None:
    def found(**settings: Any) -> list[tuple[int, str, int, float]]:
        """Layer, target and id of each feature, and the largest share of another language's tokens it fires at."""
        features = []
        for layer in discover(model, tokenizer, sae_folder, **settings).layers:
            sae = load_sae(sae_folder, layer.layer)
            tokens = {code: tokens_by_hand(model, tokenizer, TEXTS[code], layer.layer).float() for code in TEXTS}
            firing = {code: (sae.encode(of_code) > 0).double().mean(0) for code, of_code in tokens.items()}
            for feature, target in zip(layer.ids, layer.targets, strict=True):
                share = max(float(firing[code][feature]) for code in TEXTS if code != target)
                features.append((layer.layer, target, feature, share))
        return features

    limit = 0.2
    assert max(share for *_, share in found()) > limit
    few = [one for one in found(top=DICTIONARY) if one[3] <= limit]  # the others' places go to the next in rank
    expected = [one for place, one in enumerate(few) if [other[:2] for other in few[:place]].count(one[:2]) < 3]
    assert found(max_elsewhere=limit) == expected
    assert max(share for *_, share in found(select="random", max_elsewhere=limit)) > limit
    with pytest.raises(ValueError, match="between 0 and 1"):
        discover(model, tokenizer, sae_folder, max_elsewhere=2)


def test_rows_are_those_of_the_file(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, sae_folder: Path
) -> None:
    for layer in discover(model, tokenizer, sae_folder).layers:
        file = torch.load(sae_folder / f"layer{layer.layer}.sae.pt", weights_only=True)
        ids = list(layer.ids)
        assert torch.equal(layer.encoder, file["W_enc"][ids])
        assert torch.equal(layer.bias, file["b_enc"][ids])
        assert torch.equal(layer.direction, file["W_dec"].T[ids])


def test_typical_activation_is_the_mean_where_the_feature_fires(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, sae_folder: Path
) -> None:
    layer = discover(model, tokenizer, sae_folder).layers[0]
    sae = load_sae(sae_folder, layer.layer)
    for row, (feature, target) in enumerate(zip(layer.ids, layer.targets, strict=True)):
        own = sae.encode(tokens_by_hand(model, tokenizer, TEXTS[target], layer.layer).float())[:, feature]
        assert layer.typical[row] == pytest.approx(float(own[own > 0].mean()), rel=1e-5)


def test_batching_and_chunking_change_nothing(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    sae_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = discover(model, tokenizer, sae_folder, batch_size=16)
    monkeypatch.setattr(statistics, "CHUNK_ELEMENTS", 2 * DICTIONARY)
    pieces = discover(model, tokenizer, sae_folder, batch_size=1)
    for one, other in zip(whole.layers, pieces.layers, strict=True):
        assert one.ids == other.ids
        assert torch.allclose(one.score, other.score, atol=1e-6)


def test_the_same_call_writes_the_same_bytes(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, sae_folder: Path, tmp_path: Path
) -> None:
    first = discover(model, tokenizer, sae_folder).save(tmp_path / "a.safetensors").read_bytes()
    assert discover(model, tokenizer, sae_folder).save(tmp_path / "b.safetensors").read_bytes() == first


def test_the_model_runs_once_per_batch_for_all_layers(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, sae_folder: Path
) -> None:
    runs: list[int] = []
    handle = model.model.register_forward_hook(lambda module, args, output: runs.append(1))
    discover(model, tokenizer, sae_folder, layers=[0, 1, 2], batch_size=16)
    handle.remove()
    assert len(runs) == len(TEXTS)


def test_the_model_comes_back_in_the_mode_it_was_in(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, sae_folder: Path
) -> None:
    model.train()
    try:
        discover(model, tokenizer, sae_folder)
        assert model.training
    finally:
        model.eval()


def test_random_features_fire_and_are_not_the_chosen_ones(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, sae_folder: Path
) -> None:
    chosen = discover(model, tokenizer, sae_folder)
    control = discover(model, tokenizer, sae_folder, select="random", seed=0)
    again = discover(model, tokenizer, sae_folder, select="random", seed=0)
    other = discover(model, tokenizer, sae_folder, select="random", seed=1)
    assert control.provenance.selection == "random"
    for ours, theirs, same, different in zip(chosen.layers, control.layers, again.layers, other.layers, strict=True):
        assert not set(ours.ids) & set(theirs.ids)
        assert theirs.ids == same.ids != different.ids
        assert torch.stack(list(theirs.activations.values())).amax(0).min() > 0
        assert theirs.targets == ("en",) * 3 + ("zh",) * 3 + ("ru",) * 3


def test_a_feature_that_fires_elsewhere_is_warned_about(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, sae_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        features = discover(model, tokenizer, sae_folder, top=10)
    (warned,) = [message for message in caplog.messages if "not monolingual" in message]
    assert warned.startswith(f"{len(features.active_elsewhere())} of ")
    expected = 0
    for layer in features.layers:
        for row, target in enumerate(layer.targets):
            own = layer.activations[target][row]
            most = max(layer.activations[code][row] for code in TEXTS if code != target)
            expected += bool(most > 0.5 * own)
    assert len(features.active_elsewhere()) == expected > 0


def test_monolinguality_of_a_table_done_by_hand() -> None:
    scores = monolinguality(torch.tensor([[3.0, 0.0], [1.0, 0.5], [2.0, 1.0]]))
    assert scores.tolist() == [[1.5, -0.75], [-1.5, 0.0], [0.0, 0.75]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": {"en": TEXTS["en"]}}, "at least two are needed"),
        ({"texts": {**TEXTS, "ko": ["", "  "]}}, "No texts for ko"),
        ({"texts": {**TEXTS, "ko": []}}, "No texts for ko"),
        ({"texts": {**TEXTS, "xx": ["a b"]}}, "xx"),
        ({"texts": {**TEXTS, "zh-Hant": ["a b"]}}, "given twice for zh"),
        ({"texts": {**TEXTS, "ko": ["cat"]}}, "texts for ko hold no token"),
        ({"targets": ["ko"]}, "There are no texts for ko"),
        ({"texts": {**TEXTS, "ko": "one string"}}, "Texts for ko are a str"),
        ({"texts": {**TEXTS, "ko": iter(["a b"])}}, "expected a list of strings"),
        ({"texts": {**TEXTS, "ko": ["a b", None]}}, "contain None"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"max_length": 1}, "max_length=1"),
        ({"layers": []}, "give at least one"),
        ({"layers": [1, 1]}, "each layer only once"),
        ({"top": 0}, "top=0"),
        ({"select": "best"}, "select='best'"),
    ],
)
def test_bad_requests(
    changes: dict[str, Any],
    message: str,
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    sae_folder: Path,
) -> None:
    with pytest.raises(ValueError, match=message):
        discover(model, tokenizer, sae_folder, **changes)


def test_an_sae_of_another_width(
    tokenizer: PreTrainedTokenizerFast, model: Qwen3ForCausalLM, sae_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "SAE-L0_2"
    folder.mkdir()
    torch.save(
        {"W_enc": torch.ones(4, 8), "W_dec": torch.ones(8, 4), "b_enc": torch.ones(4), "b_dec": torch.ones(8)},
        folder / "layer1.sae.pt",
    )
    with pytest.raises(ValueError, match="reads residuals of width 8, but the model's are 16"):
        discover(model, tokenizer, folder, layers=[1])
    with pytest.raises(FileNotFoundError, match="no SAE for layer 7"):
        discover(model, tokenizer, sae_folder, layers=[7])


def test_saes_given_by_layer_are_those_of_the_layer(
    tokenizer: PreTrainedTokenizerFast, model: Qwen3ForCausalLM, sae_folder: Path
) -> None:
    saes = {layer: load_sae(sae_folder, layer) for layer in (0, 1)}
    assert discover(model, tokenizer, saes, layers=[1]).layers[0].layer == 1
    with pytest.raises(ValueError, match=r"No SAE was given for layers \[2\]"):
        discover(model, tokenizer, saes, layers=[1, 2])
    with pytest.raises(ValueError, match="given for layer 1 was trained on layer 0"):
        discover(model, tokenizer, {1: saes[0]}, layers=[1])


def test_a_tokenizer_without_a_padding_token(
    tokenizer: PreTrainedTokenizerFast, model: Qwen3ForCausalLM, sae_folder: Path
) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    assert bare.pad_token is None
    assert discover(model, bare, sae_folder).summary() == discover(model, tokenizer, sae_folder).summary()


def test_numbers_that_are_not_finite(
    tokenizer: PreTrainedTokenizerFast, model: Qwen3ForCausalLM, sae_folder: Path
) -> None:
    sae = load_sae(sae_folder, 1)
    broken = replace(sae, bias=torch.full_like(sae.bias, float("nan")))
    with pytest.raises(ValueError, match="activations of layer 1 are not finite"):
        discover(model, tokenizer, {1: broken}, layers=[1])
