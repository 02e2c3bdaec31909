"""Repetition features against plain loops over one text at a time, and loops sampled from models that do and do not."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import WIDTH, make, qwen3, word_tokenizer, write_saes
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from sae_posttrain import FeatureSet, discover_repetition_features, load_sae
from sae_posttrain.discovery import sample_loops, statistics
from sae_posttrain.discovery.loops import passage_of
from sae_posttrain.metrics import LoopSettings, find_loop
from sae_posttrain.sampling import SamplingSettings
from sae_posttrain.training.sasft import SASFTCallback

DICTIONARY, K, LAYERS = 40, 10, (0, 2)
WORDS = [f"w{number}" for number in range(59)]
# (before the loop, one period, whole periods, what is cut off of the last)
PARTS = [
    ([20, 21, 22, 23], [5, 6, 7], 6, [5]),
    ([30, 31], [8, 9, 10, 11, 12], 5, []),
    ([40, 41, 42, 43, 44], [13], 15, []),
    ([50], [14, 15], 8, [14]),
]
LOOPING = [before + period * whole + rest for before, period, whole, rest in PARTS]
ORDINARY = [list(range(20, 45)), [51, 3, 52, 4]]
LEAST = {"loop_settings": LoopSettings(min_tokens=12, fold_digits=False), "progress": False}
PROMPTS = [f"w{number} w{number + 1} w{number + 2}" for number in range(12)]
SAMPLING = {"sampling": SamplingSettings(temperature=0, max_new_tokens=40), "loops": 4, **LEAST}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer(WORDS, "<pad>", "<eos>")


@pytest.fixture(scope="module")
def sae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saes") / f"SAE-Res-tiny-W{DICTIONARY}-L0_{K}"
    return write_saes(folder, range(3), DICTIONARY, WIDTH, seed=2)


def looping_model() -> PreTrainedModel:
    """Random and greedy, it falls into loops of one to five tokens after about half of the prompts."""
    return qwen3(len(WORDS) + 2, seed=1, initializer_range=0.02).eval()


def loopless_model() -> PreTrainedModel:
    """Ends every response before it could loop."""
    return qwen3(len(WORDS) + 2, seed=1, initializer_range=0.3, eos_token_id=list(range(0, 61, 2))).eval()


@torch.no_grad()
def activations_by_hand(model: PreTrainedModel, folder: Path, ids: Sequence[int], layer: int) -> Tensor:
    """`(S, K)` of one text alone, from the SAE file's own tensors."""
    file = torch.load(folder / f"layer{layer}.sae.pt", weights_only=True)
    residual = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer + 1][0].double()
    pre = residual @ file["W_enc"].double().T + file["b_enc"].double()
    return pre.clamp(min=0) * (pre >= pre.topk(K, dim=-1).values[:, -1:])


def means_by_hand(model: PreTrainedModel, folder: Path, layer: int) -> tuple[dict[str, Tensor], Tensor]:
    """Mean activation in each place, and each feature's where it fires in last periods, every loop counting alike."""
    first, last, ordinary, firing = [], [], [], []
    for (before, period, whole, _), ids in zip(PARTS, LOOPING, strict=True):
        activation = activations_by_hand(model, folder, ids, layer)
        start, length = len(before), len(period)
        first.append(activation[start : start + length].mean(0))
        last_period = activation[start + (whole - 1) * length : start + whole * length]
        last.append(last_period.mean(0))
        firing.append((last_period > 0).double().mean(0))
        ordinary.append(activation[1:start])
    ordinary += [activations_by_hand(model, folder, ids, layer)[1:] for ids in ORDINARY]
    means = {
        "first period": torch.stack(first).mean(0),
        "last period": torch.stack(last).mean(0),
        "ordinary text": torch.cat(ordinary).mean(0),
    }
    return means, torch.stack(last).sum(0) / torch.stack(firing).sum(0)


def discover(model: Any, tokenizer: Any, sae: Any, texts: Any = None, **changes: Any) -> FeatureSet:
    settings: dict[str, Any] = {"layers": LAYERS, "top": 3, "batch_size": 2, **LEAST, **changes}
    if texts is None and "prompts" not in settings:
        texts = [*LOOPING, *ORDINARY]
    return discover_repetition_features(model, tokenizer, sae, texts, **settings)


@pytest.mark.parametrize("name", ["Qwen3ForCausalLM", "LlamaForCausalLM", "Gemma3ForCausalLM"])
def test_contrast_and_ranking_equal_those_by_hand(
    name: str, tokenizer: PreTrainedTokenizerFast, sae_folder: Path
) -> None:
    model = make(name)
    features = discover(model, tokenizer, sae_folder)
    assert [layer.layer for layer in features.layers] == list(LAYERS)
    for layer in features.layers:
        means, typical = means_by_hand(model, sae_folder, layer.layer)
        score = means["last period"] - means["first period"]
        expected = score.argsort(descending=True)[:3].tolist()
        assert list(layer.ids) == expected
        assert score[expected].min() > 0
        assert torch.allclose(layer.score.double(), score[expected], atol=1e-5)
        assert torch.allclose(layer.typical.double(), typical[expected], rtol=1e-4)
        assert layer.activations.keys() == means.keys()
        for place, mean in means.items():
            assert torch.allclose(layer.activations[place].double(), mean[expected], atol=1e-5)
        file = torch.load(sae_folder / f"layer{layer.layer}.sae.pt", weights_only=True)
        assert torch.equal(layer.direction, file["W_dec"].T[expected])
        assert layer.targets == ("repetition",) * 3
    assert features.provenance.selection == "repetition contrast"


def test_texts_and_their_token_ids_give_the_same(tokenizer: PreTrainedTokenizerFast, sae_folder: Path) -> None:
    model = make()
    texts = [tokenizer.decode(ids) for ids in [*LOOPING, *ORDINARY]]
    from_texts = discover(model, tokenizer, sae_folder, texts)
    from_tensors = discover(model, tokenizer, sae_folder, [torch.tensor(ids) for ids in [*LOOPING, *ORDINARY]])
    assert from_texts.sha256 == from_tensors.sha256 == discover(model, tokenizer, sae_folder).sha256


def test_batches_and_chunks_change_nothing(
    tokenizer: PreTrainedTokenizerFast, sae_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    whole = discover(model, tokenizer, sae_folder, batch_size=16)
    monkeypatch.setattr(statistics, "CHUNK_ELEMENTS", 2 * DICTIONARY)
    pieces = discover(model, tokenizer, sae_folder, batch_size=1)
    for one, other in zip(whole.layers, pieces.layers, strict=True):
        assert one.ids == other.ids
        assert torch.allclose(one.score, other.score, atol=1e-6)


def test_a_model_in_bfloat16(tokenizer: PreTrainedTokenizerFast, sae_folder: Path) -> None:
    features = discover(make().bfloat16(), tokenizer, sae_folder)
    assert all(layer.typical.min() > 0 and layer.direction.dtype == torch.float32 for layer in features.layers)


def test_a_loop_is_read_as_far_as_max_length(tokenizer: PreTrainedTokenizerFast, sae_folder: Path) -> None:
    model, ids = make(), LOOPING[0]
    cut = discover(model, tokenizer, sae_folder, [ids], max_length=4 + 2 * 3 + 2)
    for layer in cut.layers:
        activation = activations_by_hand(model, sae_folder, ids, layer.layer)
        score = activation[7:10].mean(0) - activation[4:7].mean(0)
        assert torch.allclose(layer.score.double(), score[list(layer.ids)], atol=1e-5)
    with pytest.raises(ValueError, match="two whole periods"):
        discover(model, tokenizer, sae_folder, [ids], max_length=4 + 2 * 3 - 1)


def test_the_first_position_is_no_part_of_a_period(
    tokenizer: PreTrainedTokenizerFast, sae_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, ids = make(), [5, 6, 7] * 6
    with caplog.at_level(logging.WARNING):
        features = discover(model, tokenizer, sae_folder, [ids])
    assert "ordinary text is not measured" in caplog.text
    assert features.groups == ("first period", "last period")
    for layer in features.layers:
        activation = activations_by_hand(model, sae_folder, ids, layer.layer)
        score = activation[13:16].mean(0) - activation[1:4].mean(0)
        assert torch.allclose(layer.score.double(), score[list(layer.ids)], atol=1e-5)


def test_earlier_loops_are_no_ordinary_text() -> None:
    """Two loops, and text before, between and behind them."""
    ids = [20, 21, 22, *[5, 6, 7] * 6, 30, 31, 32, *[8, 9] * 8, 40, 41]
    found = passage_of(ids, len(ids), LoopSettings(min_tokens=12))
    assert [(span.group, span.start, span.end) for span in found.spans] == [
        ("ordinary text", 1, 3),
        ("ordinary text", 21, 24),
        ("first period", 24, 26),
        ("last period", 38, 40),
    ]
    cut = passage_of(ids, 22, LoopSettings(min_tokens=12))
    assert [(span.group, span.start, span.end) for span in cut.spans] == [
        ("ordinary text", 1, 3),
        ("ordinary text", 21, 22),
    ]


def test_periods_of_a_loop_that_counts_are_marked_where_digits_are_folded() -> None:
    """Numbers from 96 to 104, one token a digit: 9 periods, the first of 6 tokens and the last of 7."""
    digits = frozenset(range(10))
    ids = [20, 21, 22]
    for number in range(96, 105):
        ids += [11, 12, 13, *map(int, str(number)), 14]
    settings = LoopSettings(min_tokens=12)
    assert [span.group for span in passage_of(ids, len(ids), settings).spans] == ["ordinary text"]
    found = passage_of(ids, len(ids), settings, digits)
    assert [(span.group, span.start, span.end, span.weight) for span in found.spans] == [
        ("ordinary text", 1, 3, 1),
        ("first period", 3, 9, 1 / 6),
        ("last period", 55, 62, 1 / 7),
    ]
    read = passage_of(ids, 51, settings, digits)  # the eighth period is cut short
    assert (read.spans[-1].start, read.spans[-1].end) == (41, 48)
    few = ids[: 3 + 5 * 6]  # five periods: a loop that counts has twice as many as others
    assert [span.group for span in passage_of(few, len(few), settings, digits).spans] == ["ordinary text"]


def test_random_features_fire_and_are_not_the_chosen_ones(tokenizer: PreTrainedTokenizerFast, sae_folder: Path) -> None:
    model = make()
    chosen = discover(model, tokenizer, sae_folder)
    control = discover(model, tokenizer, sae_folder, select="random")
    other = discover(model, tokenizer, sae_folder, select="random", seed=1)
    assert control.provenance.selection == "random"
    for ours, theirs, different in zip(chosen.layers, control.layers, other.layers, strict=True):
        assert len(theirs.ids) == len(ours.ids)
        assert not set(ours.ids) & set(theirs.ids)
        assert theirs.ids != different.ids
        assert torch.stack(list(theirs.activations.values())).amax(0).min() > 0
        assert theirs.typical.min() > 0


def test_the_dense_direction_is_the_difference_of_the_mean_residuals(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make()
    features = discover(model, tokenizer, None, select="dense")
    assert features.provenance.selection == features.provenance.sae == "dense contrast"
    for layer in features.layers:
        first, last = [], []
        for (before, period, whole, _), ids in zip(PARTS, LOOPING, strict=True):
            with torch.no_grad():
                residual = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer.layer + 1][0]
            start, length = len(before), len(period)
            first.append(residual[start : start + length].mean(0))
            last.append(residual[start + (whole - 1) * length : start + whole * length].mean(0))
        mean_first, mean_last = torch.stack(first).mean(0), torch.stack(last).mean(0)
        difference = mean_last - mean_first
        torch.testing.assert_close(layer.direction[0], difference / difference.norm(), atol=1e-5, rtol=1e-4)
        pre = [float(mean @ layer.encoder[0] + layer.bias[0]) for mean in (mean_first, mean_last)]
        assert pre == pytest.approx([0.0, float(difference.norm())], abs=1e-5)
        assert layer.activations["last period"] >= layer.activations["first period"]
        assert layer.typical.item() > 0
        assert len(layer.ids) == 1


def test_an_sae_is_needed_for_features_and_not_for_the_dense_direction(
    tokenizer: PreTrainedTokenizerFast, sae_folder: Path
) -> None:
    with pytest.raises(ValueError, match="select='contrast' needs an SAE"):
        discover(make(), tokenizer, None)
    with pytest.raises(ValueError, match="select='dense' takes no SAE"):
        discover(make(), tokenizer, sae_folder, select="dense")


def test_a_feature_that_fires_ordinarily_is_warned_about(
    tokenizer: PreTrainedTokenizerFast, sae_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        features = discover(make(), tokenizer, sae_folder, top=8)
    expected = sum(
        int((layer.activations["ordinary text"] > 0.5 * layer.activations["last period"]).sum())
        for layer in features.layers
    )
    (warned,) = [message for message in caplog.messages if "not one of repetition alone" in message]
    assert warned.startswith(f"{len(features.active_elsewhere())} of ")
    assert len(features.active_elsewhere()) == expected > 0


def test_sampled_loops_are_the_models_own(tokenizer: PreTrainedTokenizerFast) -> None:
    model = looping_model()
    sample = sample_loops(model, tokenizer, PROMPTS, batch_size=3, **SAMPLING)
    looped: list[list[int]] = []
    spent = 0
    for start in range(0, len(PROMPTS), 3):  # one prompt at a time, by the same turns
        for prompt in PROMPTS[start : start + 3]:
            ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
            made = model.generate(ids, max_new_tokens=40, do_sample=False, eos_token_id=1)[0].tolist()
            spent += 1
            looped += [made] if find_loop(made[ids.shape[1] :], LoopSettings(min_tokens=12)) else []
        if len(looped) >= 4:
            break
    assert sample.looped == looped[:4]
    assert sample.responses == spent < len(PROMPTS)
    assert 0 < len(sample.ordinary) <= 4
    assert str(sample) == f"4 loops in {spent} responses ({sample.tokens} tokens)"


def test_prompts_give_what_their_loops_give(tokenizer: PreTrainedTokenizerFast, sae_folder: Path) -> None:
    model = looping_model()
    texts = sample_loops(model, tokenizer, PROMPTS, batch_size=2, **SAMPLING).texts
    from_prompts = discover(model, tokenizer, sae_folder, prompts=PROMPTS, **SAMPLING)
    assert from_prompts.sha256 == discover(model, tokenizer, sae_folder, texts).sha256


def test_a_model_that_never_loops(tokenizer: PreTrainedTokenizerFast, sae_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"None of 12 responses .* ended in a loop .* Give more prompts"):
        discover(loopless_model(), tokenizer, sae_folder, prompts=PROMPTS, **SAMPLING)


def test_the_set_survives_a_file_and_is_no_language(
    tokenizer: PreTrainedTokenizerFast, sae_folder: Path, tmp_path: Path
) -> None:
    features = discover(make(), tokenizer, sae_folder)
    loaded = FeatureSet.load(features.save(tmp_path / "features.safetensors"))
    assert loaded.sha256 == features.sha256
    assert loaded.summary() == features.summary()
    assert loaded.languages == ()
    for column in ("first", "last", "ordinary"):
        assert column in loaded.summary().splitlines()[0]
    with pytest.raises(ValueError, match="No feature stands for zh: this set has repetition"):
        SASFTCallback(loaded, suppress="zh", weight=1e-3)
    with pytest.raises(ValueError, match="unknown language 'repetition'"):
        SASFTCallback(loaded, suppress="repetition", weight=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": ORDINARY}, "None of 2 texts has a loop"),
        ({"texts": []}, "None of 0 texts"),
        ({"texts": "one string"}, "expected a list of texts"),
        ({"texts": [None]}, "texts contain None"),
        ({"texts": [[1.5, 2.5]]}, "expected texts, or lists of token ids"),
        ({"texts": LOOPING, "prompts": PROMPTS}, "either texts"),
        ({"texts": LOOPING, "loops": 3}, "loops: only for prompts"),
        ({"prompts": PROMPTS, "loops": 0}, "loops=0"),
        (
            {"prompts": PROMPTS, "sampling": SamplingSettings(temperature=0, max_new_tokens=11)},
            "max_new_tokens=11 leaves no room",
        ),
        ({"prompts": [""]}, "holds no tokens"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"layers": []}, "give at least one"),
        ({"top": 0}, "top=0"),
        ({"select": "monolinguality"}, "expected 'contrast' or 'random'"),
    ],
)
def test_bad_requests(
    changes: dict[str, Any], message: str, tokenizer: PreTrainedTokenizerFast, sae_folder: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        discover(make(), tokenizer, sae_folder, **changes)


def test_features_that_do_not_grow(tokenizer: PreTrainedTokenizerFast, sae_folder: Path) -> None:
    sae = load_sae(sae_folder, 0)
    silent = replace(sae, encoder=torch.zeros_like(sae.encoder), bias=-torch.ones_like(sae.bias))
    with pytest.raises(ValueError, match="more active in the last period"):
        discover(make(), tokenizer, {0: silent}, layers=[0])
