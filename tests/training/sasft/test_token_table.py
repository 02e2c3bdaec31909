"""Which tokens betray a suppressed language in answers of another."""

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from sae_posttrain.training.sasft.segments import CODES, UNKNOWN
from sae_posttrain.training.sasft.token_table import TokenTable, build_token_table, penalised_scripts


@pytest.mark.parametrize(
    ("target", "language", "scripts"),
    [
        ("zh", "en", {"Hani"}),
        ("zh", "ko", {"Hani"}),
        ("zh", "ja", set()),  # Japanese writes Han
        ("zh", "yue", set()),
        ("ja", "en", {"Hani", "Hira", "Kana"}),
        ("ja", "zh", {"Hira", "Kana"}),
        ("ko", "ja", {"Hang"}),
        ("ru", "en", {"Cyrl"}),
        ("ru", "uk", set()),
        ("sr", "en", {"Cyrl"}),
        ("sr", "ru", set()),  # Latin letters are no sign of Serbian there
        ("en", "zh", {"Latn"}),
        ("de", "en", set()),
    ],
)
def test_the_scripts_that_betray_a_language(target: str, language: str, scripts: set[str]) -> None:
    assert penalised_scripts(target, language) == scripts


def byte_level(words: list[str | bytes]) -> PreTrainedTokenizerFast:
    """A byte-level vocabulary of these tokens."""
    char_of = bytes_to_unicode()
    raws = [word.encode() if isinstance(word, str) else word for word in words]
    vocabulary = {"".join(char_of[byte] for byte in raw): index for index, raw in enumerate(raws)}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def byte_fallback(words: list[str | bytes]) -> PreTrainedTokenizerFast:
    spelled = [f"<0x{word[0]:02X}>" if isinstance(word, bytes) else word.replace(" ", "▁") for word in words]
    backend = Tokenizer(models.BPE({one: index for index, one in enumerate(spelled)}, [], byte_fallback=True))
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def members(table: TokenTable, words: list[str | bytes], target: int, language: str) -> set[str | bytes]:
    row = int(table.table_LT[CODES.index(language), target])
    return {word for index, word in enumerate(words) if table.member_KV[row, index] == 1}


WORDS: list[str | bytes] = [
    " cat",
    "猫",
    "A股",
    "ねこ",
    "食べる",
    "。",
    b"\xe4\xbd",
    b"\xe3",
    b"\xa0\xbc",
    "дом",
    "집",
    "7",
]


def test_tokens_of_a_byte_level_vocabulary() -> None:
    table = build_token_table(byte_level(WORDS), ["zh", "ja"], size=16)
    assert table.member_KV.shape[1] == 16, "the model has more logits than the vocabulary tokens"
    assert not table.member_KV[:, len(WORDS) :].any()
    # A token of two scripts belongs to both; the beginning of a character counts where it can only become Han.
    assert members(table, WORDS, 0, "en") == {"猫", "A股", "食べる", b"\xe4\xbd"}
    assert members(table, WORDS, 1, "en") == {"猫", "A股", "ねこ", "食べる", b"\xe4\xbd"}
    assert members(table, WORDS, 1, "zh") == {"ねこ", "食べる"}


def test_tokens_of_a_vocabulary_with_byte_fallback() -> None:
    words: list[str | bytes] = [" cat", "猫", "ねこ", b"\xe4", b"\xe3", b"\xbd", b"\xd0"]
    assert members(build_token_table(byte_fallback(words), ["zh"], size=7), words, 0, "en") == {"猫", b"\xe4"}
    assert members(build_token_table(byte_fallback([*words, "дом"]), ["ru"], size=8), words, 0, "en") == {b"\xd0"}


def test_who_is_not_penalised() -> None:
    table = build_token_table(byte_level(WORDS), ["zh"], size=16)
    free = {code for code in CODES if table.table_LT[CODES.index(code), 0] < 0}
    assert free == {"zh", "ja", "yue"}
    assert {code for code in CODES if table.shared_L[CODES.index(code)]} == {"ja", "yue"}
    assert int(table.table_LT[UNKNOWN, 0]) < 0, "an answer whose language is unknown"


def test_a_vocabulary_without_the_script() -> None:
    with pytest.raises(ValueError, match=r"No token of this vocabulary holds a letter of th's scripts \(Thai\)"):
        build_token_table(byte_level(WORDS), ["th"], size=16)


def test_a_special_token_is_of_no_language() -> None:
    tokenizer: Any = byte_level(WORDS)
    tokenizer.add_special_tokens({"eos_token": "完"})
    table = build_token_table(tokenizer, ["zh"], size=len(tokenizer))
    assert not table.member_KV[:, tokenizer.eos_token_id].any()
    assert torch.equal(table.member_KV[:, :12].sum(-1), torch.tensor([4.0]))
