"""The passages that excite a feature most, against a search by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import BLOCKS, WIDTH, qwen3, word_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sae_posttrain.artefacts import TOP_CONTEXTS
from sae_posttrain.feature_set import FeatureSet, LayerFeatures, Provenance
from sae_posttrain.inspection.contexts import contexts_to_json, top_contexts

LAYER = 2
TEXTS = {
    "en": ["the cat sees a small house", "a house sings to the cat", "small small cat", "the"],
    "zh": ["猫 看见 小 房子", "小 房子 唱歌 给 猫"],
}


def features_of(count: Any = 2) -> Any:
    generator = torch.Generator().manual_seed(1)
    vectors = {name: torch.randn(count, WIDTH, generator=generator) for name in ("encoder", "direction")}
    numbers = {name: torch.ones(count) for name in ("bias", "score", "typical")}
    targets = ("zh", "en")[:count]
    layer = LayerFeatures(LAYER, (4, 5)[:count], targets, **vectors, **numbers, baselines={}, activations={})
    return FeatureSet((layer,), Provenance("m", WIDTH, BLOCKS, "sae", {}, "", "monolinguality"))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer([text for texts in TEXTS.values() for text in texts], "<pad>", "<eos>")


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return qwen3(len(tokenizer), initializer_range=0.3).eval()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_highest_passages_are_found_whatever_the_batches_are(model: Any, tokenizer: Any, batch_size: Any) -> None:
    features = features_of()
    found = top_contexts(model, tokenizer, features, TEXTS, top=3, around=1, batch_size=batch_size)
    assert [(one.layer, one.feature, one.target) for one in found] == [(LAYER, 4, "zh"), (LAYER, 5, "en")]
    (layer,) = features.layers
    for row, one in enumerate(found):
        peaks = []
        for group, texts in TEXTS.items():
            for text in filter(lambda text: " " in text, texts):
                ids = torch.tensor([tokenizer(text)["input_ids"]])
                hidden = model(ids, output_hidden_states=True).hidden_states[LAYER + 1][0]
                pre = (hidden @ layer.encoder[row] + layer.bias[row]).detach()
                place = 1 + int(pre[1:].argmax())
                peaks.append((float(pre[place]), group, text.split()[max(1, place - 1) : place + 2]))
        peaks.sort(reverse=True)
        assert [context.group for context in one.contexts] == [group for _, group, _ in peaks[:3]]
        assert [context.peak for context in one.contexts] == pytest.approx([peak for peak, _, _ in peaks[:3]], abs=1e-4)
        for context, (peak, _, words) in zip(one.contexts, peaks, strict=False):
            assert [text.strip() for text, _ in context.pieces] == words
            assert max(value for _, value in context.pieces) == pytest.approx(peak, abs=1e-3)


def test_pieces_put_the_passage_together_again(model: Any, tokenizer: Any) -> None:
    for one in top_contexts(model, tokenizer, features_of(), TEXTS, top=2, around=9):
        for context in one.contexts:
            passage = "".join(text for text, _ in context.pieces)
            assert any(text.endswith(passage) for text in TEXTS[context.group])


def test_a_character_of_several_tokens_is_one_piece() -> None:
    backend = Tokenizer(models.BPE({letter: n for n, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    text = "ab猫房"
    assert len(tokenizer(text)["input_ids"]) == 8
    ((one),) = top_contexts(qwen3(256), tokenizer, features_of(1), {"zh": [text]}, top=1, around=9)
    assert [piece for piece, _ in one.contexts[0].pieces] == ["b", "猫", "房"]


def test_a_slow_tokenizer_is_refused(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    with pytest.raises(ValueError, match="Use the model's fast tokenizer"):
        top_contexts(model, tokenizer, features_of(), TEXTS)


def test_json_holds_what_was_found(model: Any, tokenizer: Any) -> None:
    found = top_contexts(model, tokenizer, features_of(), TEXTS, top=1)
    assert [len(one["contexts"]) for one in contexts_to_json(found)[TOP_CONTEXTS]] == [1, 1]
