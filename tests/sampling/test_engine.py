"""Sampling responses: against a hand-written greedy loop, and leaving everything as it was."""

from __future__ import annotations

import io
import sys
from dataclasses import asdict
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from sae_posttrain.sampling import Response, SamplingProgress, SamplingSettings, sample_responses

LETTERS = "abcdefghijklmnopqrstuvwxyz 中文好абвгдежзиклмнопрстуфхц"


@pytest.fixture
def tokenizer() -> Any:
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", "<user>", "<assistant>", *LETTERS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        additional_special_tokens=["<user>", "<assistant>"],
    )


@pytest.fixture
def model(tokenizer: Any) -> Any:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        attention_dropout=0.5,
        initializer_range=0.5,
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():  # leaves the endings to the tests that want them
        model.lm_head.weight[:4] = 0
    model.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=0)
    return model


@torch.no_grad()
def greedy(model: Any, tokenizer: Any, text: str, steps: Any) -> Any:
    """One prompt, no padding, no cache: the largest logit, again and again."""
    model.eval()
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    length = ids.shape[1]
    for _ in range(steps):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return ids[0, length:].tolist()


PROMPTS = ["a", "hello there", "中文 abc", "zz"]


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_greedy_equals_a_loop_over_single_prompts(model: Any, tokenizer: Any, batch_size: Any) -> None:
    expected = [[tokenizer.decode(greedy(model, tokenizer, prompt, 12))] for prompt in PROMPTS]
    found = texts(model, tokenizer, samples=2, temperature=0, max_new_tokens=12, batch_size=batch_size)
    assert found == expected, "once each, whatever `samples` says"
    assert len(set(map(str, expected))) > 1


def sampled(model: Any, tokenizer: Any, prompts: Any = PROMPTS, **options: Any) -> Any:
    settings = {"samples": 3, "batch_size": 5, "progress": False, **options}
    sampling = {name: settings.pop(name) for name in asdict(SamplingSettings()) if name in settings}
    sampling = {"max_new_tokens": 8, **sampling}
    return sample_responses(model, tokenizer, prompts, SamplingSettings(**sampling), **settings)


def texts(model: Any, tokenizer: Any, prompts: Any = PROMPTS, **options: Any) -> Any:
    return [[response.text for response in found] for found in sampled(model, tokenizer, prompts, **options)]


def test_samples_differ_and_follow_the_seed(model: Any, tokenizer: Any) -> None:
    found = sampled(model, tokenizer, top_p=1.0)
    assert [len(responses) for responses in found] == [3] * len(PROMPTS)
    assert len({response for responses in found for response in responses}) > len(PROMPTS)
    assert found == sampled(model, tokenizer, top_p=1.0)
    assert found != sampled(model, tokenizer, top_p=1.0, seed=1)


def test_top_p_keeps_the_nucleus_only(model: Any, tokenizer: Any) -> None:
    greedy_once = sampled(model, tokenizer, temperature=0)
    assert sampled(model, tokenizer, top_p=1e-6) == [found * 3 for found in greedy_once]


def test_first_tokens_follow_the_models_distribution(model: Any, tokenizer: Any) -> None:
    """Batched, padded and sampled: frequencies of the first token agree with softmax at the given temperature."""
    model.eval()
    with torch.no_grad():
        model.lm_head.weight *= 0.2  # near uniform, so that a hidden top_k would show
    logits = model(tokenizer("ab", return_tensors="pt")["input_ids"]).logits[0, -1]
    chance = (logits / 0.7).softmax(-1)
    found = texts(
        model,
        tokenizer,
        ["ab", "a longer one"],
        samples=4000,
        temperature=0.7,
        top_p=1.0,
        max_new_tokens=1,
        batch_size=4000,
    )[0]
    for token, letter in enumerate(LETTERS, start=4):
        spread = (chance[token] * (1 - chance[token]) / 4000).sqrt()
        assert abs(found.count(letter) / 4000 - chance[token]) < 4 * spread + 1e-3, letter


def test_the_models_own_generation_config_does_not_sneak_in(model: Any, tokenizer: Any) -> None:
    plain = sampled(model, tokenizer, top_p=1.0)
    own = GenerationConfig(
        eos_token_id=1,
        pad_token_id=0,
        do_sample=True,
        top_k=1,
        min_p=0.5,
        temperature=0.1,
        repetition_penalty=5.0,
        no_repeat_ngram_size=1,
        suppress_tokens=list(range(5, 20)),
        max_length=3,
    )
    model.generation_config = own
    assert sampled(model, tokenizer, top_p=1.0) == plain
    assert model.generation_config is own
    assert own.top_k == 1


def test_responses_end_where_the_model_ends_them(model: Any, tokenizer: Any) -> None:
    first = greedy(model, tokenizer, "hello", 10)
    place = next(index for index in range(1, 10) if first[index] not in first[:index])
    model.generation_config.eos_token_id = [1, first[place]]
    (responses,) = sampled(model, tokenizer, ["hello"], temperature=0, max_new_tokens=10)
    assert responses[0].text == tokenizer.decode(first[:place])
    assert responses[0].ids == tuple(first[: place + 1])
    assert (responses[0].finish_reason, responses[0].ended, responses[0].tokens) == ("stop", True, place + 1)
    (cut,) = sampled(model, tokenizer, ["hello"], temperature=0, max_new_tokens=place)
    assert cut[0].text == responses[0].text
    assert (cut[0].finish_reason, cut[0].ended, cut[0].tokens) == ("length", False, place)
    assert responses[0].cut(place, tokenizer) == cut[0]
    (both,) = sampled(model, tokenizer, ["hello"], temperature=0, max_new_tokens=place + 1)
    assert both[0].finish_reason == "stop", "an end at the limit is an end"
    assert responses[0].cut(place + 1, tokenizer) is responses[0]


def test_a_response_checks_itself(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="finish_reason must be 'stop', 'length' or None, got 'eos'"):
        Response("a", "eos")
    assert Response("a").ended is None
    with pytest.raises(ValueError, match="with its token ids"):
        Response("a", "length", 3).cut(1, tokenizer)


class FakeBar:
    """What tqdm was told."""

    def __init__(self, **settings: Any) -> None:
        self.total, self.n, self.unit = settings["total"], 0, settings["unit"]
        self.told: list[Any] = []

    def update(self, more: Any) -> None:
        self.n += more
        self.told.append((self.unit, self.n))

    def close(self) -> None:
        self.closed = True


def test_progress_moves_with_every_token(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bars = []
    monkeypatch.setattr(
        "sae_posttrain.sampling.progress.progress_bar", lambda **s: bars.append(FakeBar(**s)) or bars[-1]
    )
    sampled(model, tokenizer, samples=2, top_p=1.0, max_new_tokens=4, batch_size=5, progress=True)
    (bar,) = bars
    assert (bar.total, bar.n, bar.closed) == (8, 8, True)
    titles = [text for text, _ in bar.told]
    assert any(text.startswith("0 of 8 responses, token 3 of at most 4") for text in titles)
    assert any(text.startswith("5 of 8 responses, token 4 of at most 4") for text in titles)
    shown = [n for _, n in bar.told]
    assert shown == sorted(shown)
    assert {1.25, 2.5, 3.75, 5.75, 6.5} <= set(shown)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_progress_bar_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with SamplingProgress(8, 100) as progress:
        progress.start_batch(8)
    first, *_, last = terminal.getvalue().strip().split("\r")
    assert first.startswith("responses:   0%|          | 0 of 8 responses [")
    assert "| 8 of 8 responses [" in last


def test_special_tokens_are_stripped(model: Any, tokenizer: Any) -> None:
    model.generation_config.eos_token_id = None
    tokenizer.eos_token = None
    with torch.no_grad():
        model.lm_head.weight[4:] = 0
        model.lm_head.weight[1:4] = 1
    found = sampled(model, tokenizer, max_new_tokens=20)
    assert not any("<" in response.text for responses in found for response in responses)
    assert all(response.finish_reason == "length" for responses in found for response in responses)


def test_chat_template_for_messages_and_on_request(model: Any, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="no chat template"):
        sampled(model, tokenizer, ["hi"], chat=True)
    tokenizer.chat_template = (
        "{% for m in messages %}<user>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    plain = sampled(model, tokenizer, ["<user>hi<assistant>"], temperature=0)
    assert sampled(model, tokenizer, ["hi"], temperature=0, chat=True) == plain
    assert sampled(model, tokenizer, [[{"role": "user", "content": "hi"}]], temperature=0) == plain
    assert sampled(model, tokenizer, ["hi"], temperature=0) != plain


def state_of(model: Any, tokenizer: Any) -> Any:
    return (
        torch.get_rng_state().tolist(),
        [module.training for module in model.modules()],
        model.generation_config.to_dict(),
        model.config.to_dict(),
        tokenizer.padding_side,
        tokenizer.pad_token,
    )


def test_everything_is_left_as_it_was(model: Any, tokenizer: Any) -> None:
    model.train()
    model.model.layers[0].eval()
    tokenizer.padding_side = "right"
    before = state_of(model, tokenizer)
    sampled(model, tokenizer)
    assert state_of(model, tokenizer) == before


def test_everything_is_left_as_it_was_after_an_error(model: Any, tokenizer: Any) -> None:
    model.train()
    before = state_of(model, tokenizer)
    config = model.generation_config

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    model.model.layers[1].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        sampled(model, tokenizer)
    assert state_of(model, tokenizer) == before
    assert model.generation_config is config


def test_dropout_is_off(model: Any, tokenizer: Any) -> None:
    model.eval()
    expected = sampled(model, tokenizer)
    model.train()
    assert sampled(model, tokenizer) == expected


def test_lora_adapters_take_part(model: Any, tokenizer: Any) -> None:
    peft = pytest.importorskip("peft")
    base = sampled(model, tokenizer, temperature=0)
    config = model.generation_config
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=4, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM")
    )
    assert sampled(adapted, tokenizer, temperature=0) == base
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    assert sampled(adapted, tokenizer, temperature=0) != base
    assert adapted.generation_config is config
    assert model.generation_config is config


def test_tokenizer_without_padding_and_no_prompts(model: Any, tokenizer: Any) -> None:
    expected = sampled(model, tokenizer, temperature=0)
    tokenizer.pad_token = None
    assert sampled(model, tokenizer, temperature=0) == expected
    assert tokenizer.pad_token is None
    assert sampled(model, tokenizer, []) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"temperature": -1}, "temperature must be 0"),
        ({"top_p": 0}, "top_p must be above 0"),
        ({"top_p": 80}, "top_p must be above 0"),
        ({"prompts": [""]}, "holds no tokens"),
        ({"prompts": ["w1", "w2 \ud83d"]}, "holds the lone surrogate"),
    ],
)
def test_bad_settings_are_named(model: Any, tokenizer: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampled(model, tokenizer, **options)
