"""`sae-posttrain sae train`: what it says, refuses and leaves alone, on a tiny model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from sae_texts import WORDS, sentences

from sae_posttrain.sae import load_sae
from sae_posttrain.sae.planning import ReadRows, TrainingPlan, plan_training
from sae_posttrain.sae.training import PackedRows, fit_coders, train_saes


def test_texts_are_read_as_they_are_needed() -> None:
    tokenizer = tiny_models.word_tokenizer(WORDS, "<pad>", "<end>")
    read = []

    def stream() -> Iterator[Any]:
        for text in sentences(0, 1000):
            read.append(text)
            yield text

    rows = [row["input_ids"] for row in PackedRows(stream(), tokenizer, 1, length=8, rows=6)]
    assert len(rows) == 6
    assert len(read) == 2  # of 30 words each, for 6 rows of 7 and a beginning
    assert all(row[0] == 1 and len(row) == 8 for row in rows)
    joined = [word for text in read for word in [*text.split(), "<end>"]]
    assert [tokenizer.convert_ids_to_tokens(int(one)) for row in rows for one in row[1:]] == joined[:42]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": [9]}, "blocks 0 to 3"),
        ({"layers": [-1]}, "blocks 0 to 3"),
        ({"layers": []}, "blocks 0 to 3"),
        ({"tokens": 10}, "at least one batch"),
        ({"layers": [1, 1]}, "name each layer only once"),
        ({"k": 300, "d_sae": 64}, "k=300, d_sae=64: expected"),
        ({"k": 0}, "k=0, d_sae=None: expected"),
        ({"d_sae": 0}, "d_sae=0: expected"),
        ({"lr": 0.0}, "lr=0.0: expected a number above 0"),
        ({"lr": -1.0}, "lr=-1.0: expected a number above 0"),
        ({"lr": float("nan")}, "lr=nan: expected a number above 0"),
        ({"lr": float("inf")}, "lr=inf: expected a number above 0"),
        ({"tokens": 10**6, "batch_size": 1000}, "too short for one batch"),
    ],
)
def test_what_training_refuses(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    tokenizer = tiny_models.word_tokenizer(WORDS, "<pad>", "<end>")
    model = tiny_models.qwen3(len(tokenizer))
    with pytest.raises(ValueError, match=message):
        train_saes(model, tokenizer, sentences(0, 5), tmp_path, **{"layers": [0], **settings})
    assert not list(tmp_path.iterdir())


def test_training_says_before_it_starts_what_it_does_and_ends_where_the_texts_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny_models.word_tokenizer(WORDS, "<pad>", "<end>")
    model = tiny_models.qwen3(len(tokenizer))
    said: list[str] = []
    fitted: list[Any] = []

    def fit(*args: Any, **settings: Any) -> Any:
        assert len(said) == 2, "it says all of it before the training starts"
        fitted.append((fit_coders(*args, **settings), len(args[1])))
        return fitted[0][0]

    monkeypatch.setattr("sae_posttrain.sae.training.fit_coders", fit)
    train_saes(model, tokenizer, sentences(0, 60), tmp_path, layers=[1, 3], max_length=16, say=said.append)
    # 60 texts of 30 words and an end are 1,860 tokens: 124 rows of 15 and a beginning.
    trainer, rows = fitted[0]
    assert rows == trainer.global_step == 124
    assert said[0] == (
        "Training SAEs of 32 features, 8 active per token, on blocks 1 3: 1,984 tokens, 124 steps of 1 rows of 16. "
        "The texts have no more tokens; 20,000,000 were requested."
    )
    assert re.fullmatch(r"It will take about \d+ (seconds|minutes|hours)\.", said[1])
    assert load_sae(tmp_path, 3).d_sae == 32


def test_defaults_fit_the_model_and_the_texts() -> None:
    def planned(width: int, rows: int, **given: Any) -> TrainingPlan:
        free: dict[str, Any] = {"d_sae": None, "k": None, "batch_size": None}
        return plan_training(width, [0], rows, max_length=256, **{**free, **given})

    large = planned(640, 78_125)  # 20 million tokens
    assert (large.d_sae, large.k, large.batch_size, large.steps) == (10_240, 50, 32, 2441)
    small = planned(640, 508)  # 130 thousand tokens
    assert (small.d_sae, small.k, small.batch_size, small.steps) == (5_120, 50, 2, 254)
    given = planned(640, 508, d_sae=20_000, batch_size=32)
    assert (given.d_sae, given.batch_size, given.steps) == (20_000, 32, 15)
    assert planned(2048, 10**6).micro_steps == 1
    assert planned(2048, 10**6, d_sae=2**17).micro_steps == 4


def test_texts_that_were_not_read_to_their_end_may_end_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_posttrain.sae.planning.READ_AHEAD", 32)
    tokenizer = tiny_models.word_tokenizer(WORDS, "<pad>", "<end>")
    rows = ReadRows(iter(PackedRows(sentences(0, 2), tokenizer, 1, length=8, rows=6)), 6, 8)
    assert not rows.exact
    assert (len(rows), len(rows.ahead)) == (6, 4)
    again = PackedRows(sentences(0, 2), tokenizer, 1, length=8, rows=6)
    assert [row["input_ids"].tolist() for row in rows] == [row["input_ids"].tolist() for row in again]


def test_a_place_that_cannot_be_written_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*args: object, **settings: object) -> None:
        pytest.fail("trained for nothing")

    monkeypatch.setattr("sae_posttrain.sae.training.fit_coders", fit)
    (tmp_path / "file").write_text("")
    tokenizer = tiny_models.word_tokenizer(WORDS, "<pad>", "<end>")
    with pytest.raises(OSError, match="file"):
        train_saes(tiny_models.qwen3(len(tokenizer)), tokenizer, sentences(0, 5), tmp_path / "file" / "x", layers=[0])


def test_training_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    tokenizer = tiny_models.word_tokenizer(WORDS, "<pad>", "<end>")
    model = tiny_models.qwen3(len(tokenizer))
    before = {name: one.clone() for name, one in model.state_dict().items()}
    train_saes(
        model, tokenizer, sentences(0, 50), tmp_path, layers=[3], d_sae=32, batch_size=4, max_length=16, tokens=500
    )
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    sae = load_sae(tmp_path, 3)
    assert (sae.d_sae, sae.d_model, str(sae.activation)) == (32, 16, "TopK, k=8")  # k by default
