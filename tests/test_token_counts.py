"""Token counts: what they say of a token, their file, and the command that makes one."""

from pathlib import Path

import pytest
import torch
from tiny_models import word_tokenizer
from transformers import PreTrainedTokenizerFast

from sae_posttrain.cli import main
from sae_posttrain.token_counts import PRIOR, TokenCounts, count_tokens

TEXTS = {
    "en": ["the house and the cat 7"] * 20 + ["rare"],
    "de": ["das haus und die katze 7"] * 10 + ["das das"] * 30,
}


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer([text for texts in TEXTS.values() for text in texts], "<pad>")


@pytest.fixture
def counts(tokenizer: PreTrainedTokenizerFast) -> TokenCounts:
    return count_tokens(tokenizer, TEXTS)


def test_every_token_is_counted_by_language(counts: TokenCounts, tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer.get_vocab()
    assert counts.languages == ("en", "de")
    assert [int(counts.count_LV[0, ids[word]]) for word in ("the", "7", "rare", "das")] == [40, 20, 1, 0]
    assert [int(counts.count_LV[1, ids[word]]) for word in ("the", "7", "rare", "das")] == [0, 10, 0, 70]


def test_membership_is_the_odds_drawn_to_zero_where_a_token_is_rare(
    counts: TokenCounts, tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = tokenizer.get_vocab()
    german_V, english_V = counts.membership("de", "en"), counts.membership("en", "de")
    # 121 tokens of English and 120 of German, so that the latter count as they are and the former for a little less.
    scale = 120 / 121
    assert float(german_V[ids["das"]]) == pytest.approx(70 / (70 + PRIOR))
    assert float(german_V[ids["7"]]) == 0.0
    assert float(english_V[ids["7"]]) == pytest.approx((20 * scale - 10) / (20 * scale + 10 + PRIOR))
    assert float(english_V[ids["rare"]]) == pytest.approx(scale / (scale + PRIOR))
    assert float(german_V[ids["the"]]) == 0.0
    assert ((german_V >= 0) & (german_V < 1)).all()


def test_a_language_that_was_not_counted(counts: TokenCounts) -> None:
    with pytest.raises(ValueError, match="No token counts of fr, only of en, de"):
        counts.membership("fr", "en")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"en": ["the"]}, "need texts in at least two languages"),
        ({"en": ["the"], "de": []}, "The texts in de have no tokens"),
        ({"en": ["the"], "klingon": ["das"]}, "klingon"),
    ],
)
def test_texts_that_say_nothing(texts: dict[str, list[str]], message: str, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match=message):
        count_tokens(tokenizer, texts)


class TestFile:
    def test_it_comes_back_as_it_was(self, counts: TokenCounts, tmp_path: Path) -> None:
        loaded = TokenCounts.load(counts.save(tmp_path / "folder" / "counts.safetensors"))
        assert loaded.languages == counts.languages
        assert torch.equal(loaded.count_LV, counts.count_LV)
        assert (loaded.sha256, loaded.texts_sha256) == (counts.sha256, counts.texts_sha256)

    def test_another_vocabulary_is_refused(self, counts: TokenCounts, tokenizer: PreTrainedTokenizerFast) -> None:
        counts.check_tokenizer(tokenizer)
        with pytest.raises(ValueError, match="made with another vocabulary"):
            counts.check_tokenizer(word_tokenizer(["the cat"], "<pad>"))

    def test_what_is_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="There is no file of token counts at"):
            TokenCounts.load(tmp_path / "nowhere.safetensors")
        (tmp_path / "text.safetensors").write_text("hello", encoding="utf-8")
        with pytest.raises(ValueError, match="is not a file of token counts, or is damaged"):
            TokenCounts.load(tmp_path / "text.safetensors")


def test_the_command_counts_and_writes(
    tokenizer: PreTrainedTokenizerFast, counts: TokenCounts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer.save_pretrained(tmp_path / "model")
    sources = []
    for code, texts in TEXTS.items():
        (tmp_path / f"{code}.txt").write_text("\n".join(texts), encoding="utf-8")
        sources.append(f"{code}={tmp_path / code}.txt")
    output = str(tmp_path / "counts.safetensors")
    given = ["discover", "tokens", "--model", str(tmp_path / "model"), "--texts", *sources, "--output", output]
    assert main(given) == 0
    assert TokenCounts.load(output).sha256 == counts.sha256
    assert "tokens that belong to the row's language rather than the column's" in capsys.readouterr().out
    assert main([*given, "--texts", "en"]) == 2
    assert "expected CODE=SOURCE" in capsys.readouterr().err
