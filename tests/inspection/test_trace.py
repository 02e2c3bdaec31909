"""Pre-activations around a switch, against the model's own hidden states."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tiny_models import BLOCKS, WIDTH, qwen3, word_tokenizer

from sae_posttrain.artefacts import SWITCH_TRACES
from sae_posttrain.feature_set import FeatureSet, LayerFeatures, Provenance
from sae_posttrain.inspection.trace import find_passages, trace_switches, traces_to_json

LAYER = 1
ROWS = [
    {"prompt": "tell me", "language": "en", "response": "the cat sees 猫 there now"},
    {"prompt": "tell me", "language": "en", "response": "a small 房子 sings"},
    {"prompt": "tell me", "language": "en", "response": "the cat sings"},
    {"prompt": "tell me", "language": "en", "response": "дом there"},
    {"prompt": "tell me", "language": "zh", "response": "猫 看见 房子"},
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer([f"{row['prompt']} {row['response']}" for row in ROWS], "<pad>", "<eos>")


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return qwen3(len(tokenizer), initializer_range=0.3).eval()


@pytest.fixture(scope="module")
def features() -> Any:
    generator = torch.Generator().manual_seed(3)
    vectors = {name: torch.randn(3, WIDTH, generator=generator) for name in ("encoder", "direction")}
    numbers = {"bias": torch.tensor([0.1, -0.2, 0.3]), "score": torch.tensor([1.0, 3.0, 2.0])}
    typical = torch.tensor([0.5, 2.0, 1.0])
    layer = LayerFeatures(
        LAYER, (7, 8, 9), ("zh", "zh", "ru"), **vectors, **numbers, typical=typical, baselines={}, activations={}
    )
    return FeatureSet((layer,), Provenance("elsewhere", WIDTH, BLOCKS, "sae", {}, "", "monolinguality"))


def pre_activations(model: Any, features: Any, ids: Any) -> Any:
    """`(S, F)` of the whole set, one sequence at a time, by what transformers calls the hidden states."""
    hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[LAYER + 1][0]
    (layer,) = features.layers
    return (hidden @ layer.encoder.T + layer.bias).detach()


def test_each_switch_comes_with_an_ordinary_answer_in_its_language(tokenizer: Any) -> None:
    passages = find_passages(tokenizer, ROWS, "zh")
    assert [passage.place for passage in passages] == [5, None, 4, None]
    assert [tokenizer.decode(passage.ids) for passage in passages] == [
        f"tell me {ROWS[row]['response']}" for row in (0, 2, 1, 3)
    ]
    assert {passage.start for passage in passages} == {2}
    assert len(find_passages(tokenizer, ROWS, "zh", limit=1)) == 2


def test_latin_targets_count_where_latin_words_are_foreign(tokenizer: Any) -> None:
    rows = [{"language": "zh", "response": "猫 sees"}]
    (passage,) = find_passages(tokenizer, rows, "en")
    assert (passage.start, passage.place) == (0, 1)


def test_means_are_those_of_the_hidden_states(model: Any, tokenizer: Any, features: Any) -> None:
    passages = find_passages(tokenizer, ROWS, "zh")
    trace = trace_switches(model, features, passages, "zh", name="before", before=4, after=1, batch_size=3)
    assert (trace.model, trace.target, trace.switches, trace.ordinary) == ("before", "zh", 2, 2)
    assert trace.offsets == (-4, -3, -2, -1, 0, 1)
    (layer,) = trace.layers
    first, _, second, _ = (pre_activations(model, features, passage.ids)[:, :2] for passage in passages)
    # The first word stands three tokens ahead of its switch, the last token of the prompt four; of the other 2 and 3.
    expected = [first[1], *((first[place] + second[place - 1]) / 2 for place in (2, 3, 4, 5, 6))]
    assert list(layer.features) == [8, 7]
    for row, feature in enumerate((7, 8)):
        measured = layer.features[feature]
        assert measured.mean == pytest.approx([float(pre[row]) for pre in expected], abs=1e-4)
        assert measured.error[0] is None
        # Of two values the standard error of the mean is half their distance.
        assert measured.error[4] == pytest.approx(float((first[5] - second[4])[row].abs() / 2), abs=1e-4)
    typical = torch.tensor([0.5, 2.0])
    assert layer.average.mean == pytest.approx([float((pre / typical).mean()) for pre in expected], abs=1e-4)
    ordinary = torch.cat([pre_activations(model, features, one.ids)[2:, :2] for one in passages if one.place is None])
    assert layer.features[7].elsewhere == pytest.approx(float(ordinary[:, 0].mean()), abs=1e-4)
    assert layer.average.elsewhere == pytest.approx(float((ordinary / typical).mean()), abs=1e-4)


def test_the_prompt_is_left_out_but_for_its_last_token(model: Any, tokenizer: Any, features: Any) -> None:
    passages = find_passages(tokenizer, ROWS[:2], "zh")
    trace = trace_switches(model, features, passages, "zh", name="m", before=6, after=9)
    mean = trace.layers[0].average.mean
    assert [offset for offset, value in zip(trace.offsets, mean, strict=True) if value is None] == [
        *(-6, -5),
        *range(3, 10),
    ]
    assert trace.layers[0].average.elsewhere is None


def test_no_switch_is_an_error_that_says_what_to_give(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"None of the 3 responses switches into zh\. Give more responses"):
        find_passages(tokenizer, ROWS[2:], "zh")


def test_features_of_another_model_or_target_are_refused(model: Any, tokenizer: Any, features: Any) -> None:
    passages = find_passages(tokenizer, ROWS, "zh")
    with pytest.raises(ValueError, match="No feature stands for ko"):
        trace_switches(model, features, passages, "ko", name="m")
    with pytest.raises(ValueError, match="width"):
        trace_switches(qwen3(len(tokenizer), hidden_size=32), features, passages, "zh", name="m")


def test_json_holds_it_all(model: Any, tokenizer: Any, features: Any) -> None:
    trace = trace_switches(model, features, find_passages(tokenizer, ROWS, "zh"), "zh", name="m")
    (read,) = json.loads(json.dumps(traces_to_json([trace])))[SWITCH_TRACES]
    assert read["layers"][0]["average"]["mean"] == list(trace.layers[0].average.mean)
    assert list(read["layers"][0]["features"]) == ["8", "7"]
