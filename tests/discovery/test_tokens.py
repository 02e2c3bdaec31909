"""All that reads texts reads the same tokens of them, wherever the tokenizer puts its special tokens and cuts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import WIDTH, qwen3, word_tokenizer
from tokenizers.processors import TemplateProcessing

from sae_posttrain.data import classify
from sae_posttrain.discovery.classes import discover_class_features
from sae_posttrain.discovery.firing import collect_firing
from sae_posttrain.discovery.pooled import mean_residuals
from sae_posttrain.discovery.statistics import collect_statistics
from sae_posttrain.discovery.tokens import cut, first_tokens
from sae_posttrain.inspection import measure_fit, read_model_features, top_activations
from sae_posttrain.sae import SparseAutoencoder
from sae_posttrain.sae.activations import TopK

TEXTS = [f"{one} cat sees a small house and it sings" for one in ("the", "a", "that", "no")] * 3 + ["the cat"]
LENGTH = 5
READ = {"batch_size": 4, "max_length": LENGTH, "progress": False}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """It puts a token before each text and one after it, and would cut texts on the left."""
    made = word_tokenizer(TEXTS, "<pad>", "<end>")
    end = made.eos_token_id
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<pad> $A <end>", special_tokens=[("<pad>", made.pad_token_id), ("<end>", end)]
    )
    made.truncation_side = "left"
    return made


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return qwen3(len(tokenizer), num_hidden_layers=2).eval()


@pytest.fixture(scope="module")
def saes() -> dict[int, SparseAutoencoder]:
    encoder, decoder = torch.randn(2, 40, WIDTH, generator=torch.Generator().manual_seed(0))
    return {1: SparseAutoencoder(encoder, torch.zeros(40), decoder, torch.zeros(WIDTH), TopK(4), 1)}


def test_the_first_tokens_are_those_of_the_whole_text(tokenizer: Any) -> None:
    whole = tokenizer(TEXTS)["input_ids"]
    assert first_tokens(tokenizer, TEXTS, None) == whole
    assert first_tokens(tokenizer, TEXTS, LENGTH) == [ids[:LENGTH] for ids in whole]
    assert first_tokens(tokenizer, [], LENGTH) == []
    ids, places = cut(tokenizer, TEXTS[0], LENGTH, special=True)
    assert ids == whole[0][:LENGTH]
    assert [TEXTS[0][start:end] for start, end in places] == ["", "the", "cat", "sees", "a"]


def test_every_reader_reads_them(model: Any, tokenizer: Any, saes: Any, tmp_path: Path) -> None:
    read: list[tuple[int, ...]] = []

    def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for ids, mask in zip(kwargs["input_ids"], kwargs["attention_mask"], strict=True):
            read.append(tuple(ids[mask.bool()].tolist()))

    handle = model.model.register_forward_pre_hook(keep, with_kwargs=True)
    two = {"one": TEXTS[:6], "other": TEXTS[6:]}
    features = discover_class_features(model, tokenizer, saes, two, layers=[1], sizes=[1], **READ).features
    expected = {tuple(ids[:LENGTH]) for ids in tokenizer(TEXTS)["input_ids"]}
    short = {"batch_size": 4, "max_length": LENGTH}
    readers: dict[str, Any] = {
        "firing": lambda: collect_firing(model, tokenizer, saes, TEXTS, layers=[1], at="any", **READ),
        "residuals": lambda: mean_residuals(model, tokenizer, TEXTS, layers=[1], **READ),
        "statistics": lambda: collect_statistics(model, tokenizer, saes, two, **READ),
        "verdicts": lambda: classify(model, tokenizer, features, TEXTS, sae=saes, **short),
        "difference": lambda: read_model_features(model, tokenizer, saes, two, name="m", **READ),
        "fit": lambda: measure_fit(model, tokenizer, saes, TEXTS, **short),
        "contexts": lambda: top_activations(model, tokenizer, saes, {1: [0]}, two, top=1, around=2, **short),
    }
    for name, reader in readers.items():
        read.clear()
        reader()
        assert set(read) == expected, name
    handle.remove()
