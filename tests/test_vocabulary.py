"""What the tokens of real kinds of vocabularies hold."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sae_posttrain.languages import get_language
from sae_posttrain.vocabulary import token_bytes, token_scripts

TEXTS = ["the cat 12", "你好世界", "привет мир", "ねこ カタカナ", "한국어"]


def byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE without merges but for one whole Han character; one special and one plain added token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=258, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(["你" * 100], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|终|>")
    tokenizer.add_tokens([AddedToken("<思考>", special=False)])
    return tokenizer


def byte_fallback() -> PreTrainedTokenizerFast:
    """The layout of Gemma's and Llama 2's vocabularies: characters, ▁ for a space, and a token for each byte."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁the", "你好", "Д", "がA"]
    backend = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>")
    )
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_bytes_are_those_that_decoding_gives(make: Any) -> None:
    tokenizer = make()
    raws = token_bytes(tokenizer)
    assert len(raws) == len(tokenizer)
    for index, raw in enumerate(raws):
        if index not in tokenizer.all_special_ids:
            # `replace` writes one U+FFFD for a byte that is no character, as both decoders do.
            assert tokenizer.decode([index], clean_up_tokenization_spaces=False) == raw.decode(errors="replace"), raw


def test_text_is_the_bytes_of_its_tokens() -> None:
    tokenizer, text = byte_level(), "the 你们 кот <思考> 12"
    raws = token_bytes(tokenizer)
    assert b"".join(raws[index] for index in tokenizer(text)["input_ids"]).decode() == text


def test_whole_and_begun_letters_of_a_byte_level_vocabulary() -> None:
    tokenizer = byte_level()
    table, raws = token_scripts(tokenizer), token_bytes(tokenizer)
    held = {raws[i] for i in table.mask(["Hani"]).nonzero().flatten()}
    whole = {raws[i] for i in table.mask(["Hani"], begun=False).nonzero().flatten()}
    assert whole == {"你".encode(), "<思考>".encode()}
    assert {b"\xe5", b"\xe9"} <= held - whole
    assert not held & {b"\xe3", b"\xbd", b"a", b" ", b""}  # \xe3 begins kana, Han and punctuation
    assert not table.letters[tokenizer.eos_token_id].scripts  # a special token is no text


def test_letters_of_a_vocabulary_with_byte_fallback() -> None:
    tokenizer = byte_fallback()
    table, name = token_scripts(tokenizer), tokenizer.convert_ids_to_tokens
    assert set(name(table.mask(["Hani"], begun=False).nonzero().flatten().tolist())) == {"你好"}
    assert "<0xE5>" in name(table.mask(["Hani"]).nonzero().flatten().tolist())
    # A token with letters of two scripts belongs to both.
    for scripts in (["Latn"], get_language("ja").scripts):
        assert "がA" in name(table.mask(scripts).nonzero().flatten().tolist())


def test_a_mask_covers_the_padding_of_the_logits() -> None:
    table = token_scripts(byte_level())
    assert table.mask(["Hani"], size=300).shape == (300,)
    assert table.mask(["Hani"], size=10).shape == (len(table),)
    assert not table.mask(["Hani"], size=300)[len(table) :].any()
