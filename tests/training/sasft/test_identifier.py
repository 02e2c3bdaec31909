"""The language of an answer from its tokens: certain tokens alone, else what they decode to."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sae_posttrain.metrics.answer_language import answer_language
from sae_posttrain.training.sasft.identifier import FIRST_TOKENS, ScriptIdentifier, labelled_runs
from sae_posttrain.training.sasft.segments import segments_of

from .world import World

CODE = "def sort(items):\n    return sorted(items, key=lambda item: item.value)\n"
TEXTS = {
    "en": "The cat sees a small house and sings.",
    "zh": "这只猫看见一个小房子并且唱歌。",
    "ru": "Кошка видит маленький дом и поёт.",
    "ko": "고양이가 작은 집을 보고 노래한다.",
    "ja": "猫は小さな家を見て歌います。",
    "th": "แมวเห็นบ้านหลังเล็กและร้องเพลง",
}
CANDIDATES = [*TEXTS]
Make = Callable[[], PreTrainedTokenizerFast]


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


def batch(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> dict[str, Tensor]:
    encoded = tokenizer(list(texts), return_tensors="pt", padding=True)
    labels = encoded["input_ids"].where(encoded["attention_mask"].bool(), -100)
    return {"input_ids": encoded["input_ids"], "labels": labels}


def told(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], candidates: Sequence[str]) -> list[str | None]:
    inputs = batch(tokenizer, texts)
    found = ScriptIdentifier(tokenizer, candidates)(inputs, segments_of(inputs))
    return [found[number].language for number in range(len(texts))]


@pytest.mark.parametrize("make", [byte_level_tokenizer, byte_fallback_tokenizer])
def test_vocabularies_that_cut_characters_tell_languages_apart(make: Make) -> None:
    assert told(make(), [*TEXTS.values()], CANDIDATES) == CANDIDATES


@pytest.mark.parametrize("make", [byte_level_tokenizer, byte_fallback_tokenizer])
def test_code_does_not_count(make: Make) -> None:
    answers = [f"{text}\n\n```python\n{CODE * 4}```\n" for text in TEXTS.values()]
    assert told(make(), answers, CANDIDATES) == CANDIDATES
    assert told(make(), [f"```python\n{CODE}```", "42, 17", "{}"], CANDIDATES) == [None, None, None]


@pytest.mark.parametrize("make", [byte_level_tokenizer, byte_fallback_tokenizer])
def test_bytes_are_joined_as_the_tokenizer_decodes_them(make: Make, world: World) -> None:
    tokenizer = make()
    ids = tokenizer(f"<pad>{TEXTS['ja']} `x` {TEXTS['en']}")["input_ids"]
    joined = ScriptIdentifier(tokenizer, ["en"]).text([np.array(ids)])
    assert joined.strip() == tokenizer.decode(ids, skip_special_tokens=True).strip()
    words = world.tokenizer("the cat <unk> 猫")["input_ids"]  # a vocabulary of words, which spaces join
    assert ScriptIdentifier(world.tokenizer, ["en"]).text([np.array(words)]) == "the cat 猫"


@pytest.mark.parametrize("candidates", [["en", "fr", "zh"], ["zh", "ja"], ["ru", "uk", "en"], ["th"], ["en", "sr"]])
def test_tokens_tell_what_the_text_tells(candidates: list[str]) -> None:
    texts = [*TEXTS.values(), "猫 cat", "123 …", TEXTS["zh"] + TEXTS["en"], f"`x` {TEXTS['en']}", f"`{CODE[:15]}`"]
    expected = [answer_language(text, candidates).language for text in texts]
    assert told(byte_level_tokenizer(), texts, candidates) == expected


def test_plain_answers_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_level_tokenizer()
    inputs = batch(tokenizer, [TEXTS["en"], "1, 2", "`x` is a name."])
    identify = ScriptIdentifier(tokenizer, CANDIDATES)

    def refuse(*args: Any, **kwargs: Any) -> str:
        raise AssertionError("decoded")

    monkeypatch.setattr(ScriptIdentifier, "text", refuse)
    segment_BS = segments_of(inputs)
    plain = identify(inputs, segment_BS, segment_BS < 2)
    assert [plain[number].language for number in range(2)] == ["en", None]
    with pytest.raises(AssertionError, match="decoded"):
        identify(inputs, segment_BS)


def test_the_stretches_of_a_packed_row_are_told_each_by_itself() -> None:
    tokenizer = byte_level_tokenizer()
    answers = [TEXTS["zh"], f"{TEXTS['en']}\n```\n{CODE}```", TEXTS["ja"]]
    ids = [tokenizer(text)["input_ids"] for text in answers]
    packed = torch.tensor([[token for row in ids for token in row]])
    positions = torch.tensor([[place for row in ids for place in range(len(row))]])
    inputs = {"input_ids": packed, "labels": packed.clone(), "position_ids": positions}
    found = ScriptIdentifier(tokenizer, CANDIDATES)(inputs, segments_of(inputs))
    assert [found[number].language for number in range(3)] == ["zh", "en", "ja"]
    open_BS = segments_of(inputs) == 1  # what the others are is known already
    assert ScriptIdentifier(tokenizer, CANDIDATES)(inputs, segments_of(inputs), open_BS).keys() == {1}


def test_only_labelled_tokens_count(world: World) -> None:
    inputs = world.tokenizer(["猫 看见 房子 唱歌 the cat"], return_tensors="pt")
    identify = ScriptIdentifier(world.tokenizer, ["en", "zh"])
    labels = inputs["input_ids"].clone()
    labels[:, :4] = -100
    english = identify({**inputs, "labels": labels}, segments_of(inputs))
    chinese = identify({**inputs, "labels": inputs["input_ids"]}, segments_of(inputs))
    assert english[0].language == "en"
    assert chinese[0].language == "zh"


def test_answers_of_several_turns_are_apart() -> None:
    """A fence that the first answer never closes does not swallow the second."""
    tokenizer = byte_level_tokenizer()
    turns = [f"```python\n{CODE}", "谢谢！再来一个？", TEXTS["zh"]]
    ids = [tokenizer(turn)["input_ids"] for turn in turns]
    row = torch.tensor([[token for turn in ids for token in turn]])
    labels = row.clone()
    labels[0, len(ids[0]) : len(ids[0]) + len(ids[1])] = -100
    inputs = {"input_ids": row, "labels": labels}
    ((number, runs),) = labelled_runs(inputs, segments_of(inputs))
    assert number == 0
    assert [run.tolist() for run in runs] == [ids[0], ids[2]]
    assert ScriptIdentifier(tokenizer, CANDIDATES)(inputs, segments_of(inputs))[0].language == "zh"


def test_a_long_answer_is_read_to_its_end_where_its_beginning_is_not_clear() -> None:
    tokenizer = byte_level_tokenizer()
    text = f"```python\n{CODE * 30}```\n{TEXTS['ru'] * 10}"
    assert len(tokenizer(f"```python\n{CODE * 30}")["input_ids"]) > FIRST_TOKENS
    assert told(tokenizer, [text, TEXTS["ru"] * 60 + "`x`"], CANDIDATES) == ["ru", "ru"]


def test_ids_of_a_vocabulary_may_have_gaps() -> None:
    backend = Tokenizer(models.WordLevel({"<pad>": 0, "the": 3, "猫": 900}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")
    assert told(tokenizer, ["猫 猫", "the the"], ["en", "zh"]) == ["zh", "en"]
