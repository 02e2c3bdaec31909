"""Which language a batch's tokens are taken for, and what each language's tokens are compared with."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sae_posttrain import FeatureSet, SASFTCallback
from sae_posttrain.languages import identify_by_script, script_counts
from sae_posttrain.training.sasft.loss import build_penalty, sasft_loss
from sae_posttrain.training.sasft.segments import (
    CODES,
    LANGUAGE_IDS,
    LanguageCollator,
    ScriptIdentifier,
    language_id,
    segments_of,
)

from .routes import World, plain, with_trainer

TEXTS = {
    "en": "The cat sees a small house and sings.",
    "zh": "这只猫看见一个小房子并且唱歌。",
    "ru": "Кошка видит маленький дом и поёт.",
    "ko": "고양이가 작은 집을 보고 노래한다.",
    "ja": "猫は小さな家を見て歌います。",
    "th": "แมวเห็นบ้านหลังเล็กและร้องเพลง",
}


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes only: every character outside ASCII is cut in pieces, as rare ones are in real vocabularies."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXTS.values(), trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")


def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """As Gemma's: known pieces, and <0xNN> for the bytes of everything else."""
    pieces = ["<pad>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *(chr(c) for c in range(97, 123)), "▁"]
    backend = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")


# A lone first byte of kana or Thai is one of other scripts too; vocabularies with byte fallback hold those letters.
@pytest.mark.parametrize(
    ("make", "codes"), [(byte_level_tokenizer, list(TEXTS)), (byte_fallback_tokenizer, ["en", "zh", "ru", "ko"])]
)
def test_scripts_of_a_vocabulary_tell_languages_apart(make: Any, codes: list[str]) -> None:
    tokenizer = make()
    encoded = tokenizer([TEXTS[code] for code in codes], return_tensors="pt", padding=True)
    inputs = {**encoded, "labels": encoded["input_ids"].where(encoded["attention_mask"].bool(), -100)}
    told = ScriptIdentifier(tokenizer, codes)(inputs, segments_of(inputs))
    assert [CODES[row[0]] for row in told.tolist()] == codes
    assert bool((told == told[:, :1]).all())


@pytest.mark.parametrize("candidates", [["en", "fr", "zh"], ["zh", "ja"], ["ru", "uk", "en"], ["th"]])
def test_the_batched_rule_is_the_one_for_texts(candidates: list[str]) -> None:
    words = PreTrainedTokenizerFast(tokenizer_object=character_backend(), pad_token="<pad>")
    texts = [*TEXTS.values(), "猫 cat", "123 …", TEXTS["zh"] + TEXTS["en"], TEXTS["ja"] + TEXTS["zh"]]
    encoded = words(texts, return_tensors="pt", padding=True)
    inputs = {**encoded, "labels": encoded["input_ids"].where(encoded["attention_mask"].bool(), -100)}
    told = ScriptIdentifier(words, candidates)(inputs, segments_of(inputs))[:, 0].tolist()
    expected = [identify_by_script(script_counts(text), candidates) for text in texts]
    assert told == [language_id(code) for code in expected]


def character_backend() -> Tokenizer:
    """One token per character, so that token counts are letter counts."""
    characters = sorted({char for text in [*TEXTS.values(), "猫 cat", "123 …"] for char in text})
    backend = Tokenizer(models.WordLevel({"<pad>": 0, **{char: i + 1 for i, char in enumerate(characters)}}))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return backend


def test_only_labelled_tokens_vote(world: World) -> None:
    inputs = world.tokenizer(["猫 看见 房子 唱歌 the cat"], return_tensors="pt")
    identify = ScriptIdentifier(world.tokenizer, ["en", "zh"])
    labels = inputs["input_ids"].clone()
    labels[:, :4] = -100
    english = identify({**inputs, "labels": labels}, segments_of(inputs))
    chinese = identify({**inputs, "labels": inputs["input_ids"]}, segments_of(inputs))
    assert english.unique().tolist() == [language_id("en")]
    assert chinese.unique().tolist() == [language_id("zh")]


class TestCollator:
    def test_padded_rows(self) -> None:
        def pad(examples: list[dict[str, Any]]) -> dict[str, Any]:
            assert all("language" not in example for example in examples)
            return {"input_ids": torch.zeros(len(examples), 4, dtype=torch.long)}

        batch = LanguageCollator(pad, "language")(
            [{"input_ids": [1, 2, 3, 4], "language": "zh-Hant"}, {"input_ids": [1], "language": None}]
        )
        assert batch[LANGUAGE_IDS].tolist() == [[language_id("zh")] * 4, [-1] * 4]

    def test_flattened_rows(self) -> None:
        collator = LanguageCollator(lambda examples: {"input_ids": torch.zeros(1, 4, dtype=torch.long)}, "language")
        batch = collator([{"input_ids": [1, 2], "language": "ru"}, {"input_ids": [1], "language": "en"}])
        assert batch[LANGUAGE_IDS].tolist() == [[language_id("ru")] * 2 + [language_id("en"), -1]]

    def test_rows_without_the_column_pass_through(self) -> None:
        collator = LanguageCollator(lambda examples: {"input_ids": torch.zeros(1, 2)}, "language")
        assert LANGUAGE_IDS not in collator([{"input_ids": [1, 2]}])


class TestUsersFunction:
    def train(self, world: World, language_of: Any) -> dict[str, float]:
        trainer = world.run(plain, dataset=world.dataset.remove_columns("language"))
        callback = SASFTCallback(world.features, suppress="zh", weight=1.0, language_of=language_of)
        trainer.add_callback(callback.set_trainer(trainer))
        trainer.train()
        return trainer.state.log_history[0]

    def test_it_decides(self, world: World) -> None:
        def all_chinese(inputs: Mapping[str, Tensor]) -> list[str | None]:
            return ["zh"] * len(inputs["input_ids"])

        assert self.train(world, all_chinese)["sasft_penalised_share"] == 0

    def test_none_leaves_it_to_the_script(self, world: World) -> None:
        def undecided(inputs: Mapping[str, Tensor]) -> list[str | None]:
            return [None] * len(inputs["input_ids"])

        log = self.train(world, undecided)
        assert log["sasft_unknown_share"] == 0
        assert 0 < log["sasft_penalised_share"] < 1

    def test_too_few_languages(self, world: World) -> None:
        with pytest.raises(ValueError, match="gave 1 languages for a batch of 8 segments"):
            self.train(world, lambda inputs: ["zh"])


def test_wrapped_packing_carries_the_column_on_the_trainer_route(world: World) -> None:
    trainer = world.run(with_trainer, packing=True, packing_strategy="wrapped", max_length=16)
    chinese = {world.tokenizer.convert_tokens_to_ids(word) for word in ("猫", "看见", "一个", "小", "房子", "唱歌")}
    seen = 0
    for row in trainer.train_dataset:
        for token, language in zip(row["input_ids"], row[LANGUAGE_IDS], strict=True):
            assert token not in chinese or CODES[language] == "zh"
            seen += token in chinese
    assert seen > 0
    trainer.train()
    assert 0 < trainer.state.log_history[0]["sasft_penalised_share"] < 1


class TestTables:
    def test_the_loss_of_numbers_done_by_hand(self) -> None:
        pre_BSF = torch.tensor([[[2.0, -1.0], [5.0, 0.0], [9.0, 9.0]]])
        baseline_LF = torch.tensor([[1.0, -2.0], [0.0, 0.0], [0.0, 0.0]])
        weight_LF = torch.tensor([[0.5, 1.0], [1.0, 0.0], [0.0, 0.0]])
        language_BS = torch.tensor([[0, 1, -1]])
        labelled_BS = torch.tensor([[True, True, True]])
        # token 0: .5*(2-1) + 1*(-1+2); token 1: 1*5 + 0; token 2: no known language
        assert sasft_loss(pre_BSF, baseline_LF, weight_LF, language_BS, labelled_BS) == 6.5
        labelled_BS = torch.tensor([[True, False, True]])
        assert sasft_loss(pre_BSF, baseline_LF, weight_LF, language_BS, labelled_BS) == 1.5

    def test_a_relative_lends_its_baseline(self, features: FeatureSet) -> None:
        penalty = build_penalty(features.layers[0], ["zh"], "mean", "raw")
        assert torch.equal(penalty.baseline_LF[language_id("uk")], penalty.baseline_LF[language_id("ru")])
        assert penalty.known_L[language_id("uk")]

    def test_a_language_without_a_baseline_is_penalised_against_zero_only(self, features: FeatureSet) -> None:
        thai = language_id("th")
        mean = build_penalty(features.layers[0], ["zh"], "mean", "raw")
        assert not mean.weight_LF[thai].any()
        assert not mean.known_L[thai]
        zero = build_penalty(features.layers[0], ["zh"], "zero", "raw")
        assert zero.weight_LF[thai].all()
        assert not zero.baseline_LF.any()

    def test_typical_scale_divides_by_the_typical_activation(self, features: FeatureSet) -> None:
        layer = features.layers[0]
        raw, typical = (build_penalty(layer, ["zh"], "mean", scale) for scale in ("raw", "typical"))
        english = language_id("en")
        assert torch.allclose(typical.weight_LF[english], raw.weight_LF[english] / layer.typical[:2])
        assert raw.weight_LF[english].tolist() == [0.5, 0.5]
        assert raw.weight_LF[language_id("zh")].tolist() == [0, 0]
        assert raw.weight_LF[-1].tolist() == [0, 0]
