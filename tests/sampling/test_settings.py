"""Sampling settings: what they refuse, and what top_k and min_p keep, beside transformers' own processors."""

from __future__ import annotations

import pytest
import torch
from tiny_models import qwen3, word_tokenizer
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sae_posttrain.sampling import SamplingSettings, sample_responses

WORDS = [f"w{number}" for number in range(60)]


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(0.7, 0.9, 1, top_k=20, min_p=0.3),
        SamplingSettings(0.7, 1.0, 1, top_k=7),
        SamplingSettings(1.5, 1.0, 1, min_p=0.4),
    ],
)
def test_the_tokens_that_may_come_are_those_of_transformers(settings: SamplingSettings) -> None:
    tokenizer = word_tokenizer(WORDS, "<pad>")
    model = qwen3(len(tokenizer), seed=1, initializer_range=0.3).eval()
    logits_1V = model(tokenizer("w1 w2", return_tensors="pt")["input_ids"]).logits[:, -1].detach()
    warpers = LogitsProcessorList([TemperatureLogitsWarper(settings.temperature)])
    if settings.top_k:
        warpers.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        warpers.append(TopPLogitsWarper(settings.top_p))
    if settings.min_p:
        warpers.append(MinPLogitsWarper(settings.min_p))
    chance_V = warpers(torch.zeros(1, 1, dtype=torch.long), logits_1V)[0].softmax(-1)
    (found,) = sample_responses(model, tokenizer, ["w1 w2"], settings, samples=2000, batch_size=500, progress=False)
    drawn_V = torch.bincount(torch.tensor([one.ids[0] for one in found]), minlength=len(chance_V)) / len(found)
    assert 1 < int((chance_V > 0).sum()) < len(chance_V)
    assert not (drawn_V[chance_V == 0] > 0).any()
    error_V = (chance_V * (1 - chance_V) / len(found)).sqrt()
    assert ((drawn_V - chance_V).abs() <= 4.5 * error_V).all()


@pytest.mark.parametrize("settings", [SamplingSettings(1.0, 1.0, 6, top_k=1), SamplingSettings(1.0, 0.8, 6, min_p=1.0)])
def test_keeping_one_token_is_greedy(settings: SamplingSettings) -> None:
    tokenizer = word_tokenizer(WORDS, "<pad>")
    model = qwen3(len(tokenizer), seed=1, initializer_range=0.3).eval()
    greedy = sample_responses(model, tokenizer, WORDS[:3], SamplingSettings(0.0, 1.0, 6), progress=False)
    assert sample_responses(model, tokenizer, WORDS[:3], settings, samples=1, progress=False) == greedy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -0.1}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"temperature": float("inf")}, "temperature must be 0"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 80}, "top_p must be above 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"max_new_tokens": 1.5}, "max_new_tokens must be a whole number"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"top_k": True}, "top_k must be a whole number"),
        ({"min_p": 1.1}, "min_p must be between 0 and 1"),
    ],
)
def test_what_is_out_of_range_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingSettings(**changes)  # type: ignore[arg-type]
