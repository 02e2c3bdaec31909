"""Every way of calling `generate` is steered as it should be or refused, and leaves no trace."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from steering_cases import (
    ALPHA,
    GREEDY,
    PROMPT,
    ROWS,
    STEERED,
    by_hand,
    directions,
    feature_set,
    generate,
    logits_and_tokens,
    padded,
)
from tiny_models import BLOCKS, WIDTH, make, token_ids
from torch.testing import assert_close
from transformers import CompileConfig, DynamicCache, GenerationConfig

from sae_posttrain import steer

WAYS: dict[str, dict[str, Any]] = {
    "without cache": {"use_cache": False},
    "prompt in chunks": {"prefill_chunk_size": 3},
    "chunks that end with the prompt": {"prefill_chunk_size": 1},
    "static cache": {"cache_implementation": "static"},
    "static cache in chunks": {"cache_implementation": "static", "prefill_chunk_size": 3},
    "static cache, compiled by generate": {"cache_implementation": "static", "compile_config": "eager"},
}


@pytest.mark.parametrize("name", ["Qwen3ForCausalLM", "Qwen3_5ForCausalLM", "Gemma3ForCausalLM"])
@pytest.mark.parametrize("way", WAYS)
def test_other_ways_of_generating_give_the_same(name: str, way: str) -> None:
    model, settings = make(name), dict(WAYS[way])
    if settings.get("compile_config"):
        settings["compile_config"] = CompileConfig(backend="eager", mode=None)
        settings["compile_config"]._compile_all_devices = True
        torch._dynamo.reset()
        generate(model, **settings)  # leaves code behind that knows nothing of steering
    expected_logits, expected = by_hand(model)
    with steer(model, directions(), alpha=ALPHA, rows=STEERED):
        logits, tokens = logits_and_tokens(model, **settings)
    assert torch.equal(tokens, expected)
    assert_close(logits, expected_logits, rtol=1e-4, atol=1e-5)


def test_a_prompt_of_one_token_or_of_embeddings_or_positional() -> None:
    model, ids = make(), token_ids(ROWS, 1)
    with steer(model, directions()):
        tokens = generate(model, {"input_ids": ids})
        assert torch.equal(tokens, generate(model, {"input_ids": ids}, use_cache=False))
        assert torch.equal(tokens, model.generate(ids, **GREEDY)[:, 1:])
        embeddings = model.get_input_embeddings()(ids)
        assert torch.equal(tokens, model.generate(inputs_embeds=embeddings, **GREEDY))
    assert not torch.equal(tokens[:, 0], generate(model, {"input_ids": ids})[:, 0])


@pytest.mark.parametrize("sent", [slice(None), slice(4, None)], ids=["the whole prompt", "what the cache has not"])
def test_a_cache_brought_along_is_part_of_the_prompt(sent: slice) -> None:
    model, inputs = make(), padded()
    expected_logits, expected = by_hand(model)
    half = {name: values[:, :4] for name, values in inputs.items()}
    places = (half["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"  # before 5.24
    model(**half, position_ids=places, **{name: cache})
    given = {**inputs, "input_ids": inputs["input_ids"][:, sent], name: cache}
    with steer(model, directions(), alpha=ALPHA, rows=STEERED):
        logits, tokens = logits_and_tokens(model, given)
    assert torch.equal(tokens, expected)
    assert_close(logits, expected_logits, rtol=1e-4, atol=1e-5)


def test_several_calls_in_one_block_each_have_prompts_of_their_own() -> None:
    model = make()
    short = {"input_ids": token_ids(ROWS, 2)}
    _, expected = by_hand(model)
    with steer(model, directions(), alpha=ALPHA, rows=STEERED):
        first = generate(model)
        other = generate(model, short, use_cache=False)
        assert torch.equal(generate(model), first)
        assert torch.equal(generate(model, short), other)
    assert torch.equal(first, expected)


def test_drafted_tokens_are_checked_against_the_steered_model() -> None:
    model, draft = make(), make(seed=1)
    one = {"input_ids": token_ids(1, PROMPT).repeat(1, 2)}
    with steer(model, directions()):
        expected = generate(model, one)
        assert torch.equal(generate(model, one, prompt_lookup_num_tokens=3), expected)
        assert torch.equal(generate(model, one, assistant_model=draft), expected)
    assert not torch.equal(generate(model, one), expected)


def test_beams_and_returned_sequences_follow_their_prompt() -> None:
    model = make()
    plain = generate(model, num_beams=3, num_return_sequences=2)
    sampling = {"do_sample": True, "num_return_sequences": 2}
    torch.manual_seed(3)
    plain_samples = generate(model, **sampling)
    with steer(model, directions(), alpha=ALPHA, rows=STEERED):
        beams = generate(model, num_beams=3, num_return_sequences=2)
        assert torch.equal(beams, generate(model, num_beams=3, num_return_sequences=2, use_cache=False))
        torch.manual_seed(3)
        samples = generate(model, **sampling)
    twice = STEERED.repeat_interleave(2)
    for steered, unsteered in ((beams, plain), (samples, plain_samples)):
        assert torch.equal(steered[~twice], unsteered[~twice])
        assert (steered != unsteered)[twice].any(dim=1).all()


def state(model: Any) -> tuple[Any, ...]:
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    return hooks, sorted(vars(model)), model.generate


@pytest.mark.parametrize("inside", [lambda model: 1 / 0, lambda model: generate(model, max_new_tokens=-1), generate])
def test_nothing_is_left_behind(inside: Callable[[Any], Any]) -> None:
    model = make()
    before, plain = state(model), generate(model)
    try:
        with steer(model, directions()):
            assert state(model) != before
            inside(model)
    except (ZeroDivisionError, ValueError):
        pass
    assert state(model) == before
    assert torch.equal(generate(model), plain)


def test_a_generate_of_the_objects_own_comes_back() -> None:
    model = make()
    theirs = model.generate
    model.generate = lambda **inputs: theirs(**inputs)
    own = model.generate
    with steer(model, directions(), alpha=ALPHA, rows=STEERED):
        assert torch.equal(generate(model), by_hand(make())[1])
    assert vars(model)["generate"] is own


def test_after_an_error_inside_generate_the_block_goes_on() -> None:
    model = make()
    with steer(model, directions(), alpha=ALPHA, rows=STEERED):
        with pytest.raises(ValueError, match="max_new_tokens"):
            generate(model, max_new_tokens=-1)
        assert torch.equal(generate(model), by_hand(make())[1])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"alpha": float("nan")}, "alpha must be one finite number"),
        ({"alpha": [1.0, float("inf"), 0.0]}, "alpha must be one finite number"),
        ({"alpha": torch.ones(ROWS, 2)}, "alpha must be one finite number"),
        ({"rows": [0, 2]}, r"rows must be a mask.*int64 of shape \(2,\)"),
        ({"rows": torch.ones(ROWS, 1, dtype=torch.bool)}, "rows must be a mask"),
        ({"rows": [True], "alpha": [1.0, 2.0]}, "alpha has 2 entries and rows has 1"),
        ({"positions": torch.ones(ROWS, PROMPT)}, r"positions must be a .* mask; got torch.float32"),
        ({"positions": torch.ones(2, 4) > 0, "rows": STEERED}, "alpha or rows has 3 entries and positions has 2 rows"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], says: str) -> None:
    model = make()
    before = state(model)
    with pytest.raises(ValueError, match=says), steer(model, directions(), **settings):
        pass
    assert state(model) == before


@pytest.mark.parametrize(
    ("features", "says"),
    [
        ({}, "nothing to steer with"),
        ({1: torch.ones(WIDTH), BLOCKS: torch.ones(WIDTH)}, f"Layer {BLOCKS} is out of range"),
        ({-1: torch.ones(WIDTH)}, "Layer -1 is out of range"),
        ({1: torch.ones(WIDTH + 1)}, rf"layer 1 has shape \({WIDTH + 1},\).*expected {WIDTH} finite"),
        ({1: torch.full((WIDTH,), float("inf"))}, "not finite"),
        (feature_set(d_model=8), rf"found in owner/tiny \({BLOCKS} layers of width 8\).*Discover features"),
        (feature_set(num_layers=9), "9 layers"),
    ],
)
def test_features_that_do_not_fit_are_refused(features: Any, says: str) -> None:
    model = make()
    before = state(model)
    with pytest.raises(ValueError, match=says), steer(model, features):
        pass
    assert state(model) == before


def test_features_of_a_model_with_another_name_are_warned_of() -> None:
    model = make()
    model.config._name_or_path = "owner/another"
    with (
        pytest.warns(UserWarning, match="found in owner/tiny, and the model is owner/another"),
        steer(model, feature_set()),
    ):
        pass


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda model: generate(model, {"input_ids": token_ids(2)}), "has 3 entries, but generate was given 2"),
        (lambda model: generate(model, {"input_ids": token_ids(6)}), "repeat the prompt instead"),
        (lambda model: model(token_ids()), "belongs to no `generate` call.*Give `positions`"),
        (lambda model: generate(model, {name: x.flip(1) for name, x in padded().items()}), "Pad on the left"),
        (lambda model: generate(model, guidance_scale=1.5), "guidance_scale"),
        (lambda model: model.generate(**padded(), generation_config=GenerationConfig(guidance_scale=2)), "guidance"),
        (lambda model: model.generate_batch(token_ids().tolist()), "Continuous batching mixes"),
        (lambda model: generate(model, cache_implementation="paged"), "Continuous batching mixes"),
    ],
)
def test_calls_that_cannot_be_steered_are_refused(call: Callable[[Any], Any], says: str) -> None:
    model = make()
    with steer(model, directions(), rows=STEERED):
        with pytest.raises(ValueError, match=says):
            call(model)
        assert torch.equal(generate(model)[0], generate(model, use_cache=False)[0])  # and the next one works


@pytest.mark.parametrize("settings", [{"assistant_early_exit": 2}, {"assistant_model": "itself"}])
def test_a_model_that_drafts_for_itself_is_refused(settings: dict[str, Any]) -> None:
    model = make()
    if "assistant_model" in settings:
        settings = {"assistant_model": model}
    with steer(model, directions()), pytest.raises(ValueError, match="generate called itself on the steered model"):
        generate(model, {"input_ids": token_ids(1)}, **settings)


def test_a_model_that_cannot_generate_is_refused_unless_positions_are_given() -> None:
    model, ids = make("Qwen3Model"), token_ids()
    with (
        pytest.raises(ValueError, match="Qwen3Model has no generate method; give positions"),
        steer(model, directions()),
    ):
        pass
    plain = model(ids)[0]
    with steer(model, directions(), positions=torch.ones_like(ids).bool()):
        assert not torch.equal(model(ids)[0], plain)


def test_virtual_tokens_are_refused() -> None:
    model = get_peft_model(make(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ValueError, match="prompt-learning adapter"), steer(model, directions()):
        pass


def test_a_forward_of_another_shape_than_the_positions_is_refused() -> None:
    model = make()
    with steer(model, directions(), positions=torch.ones(ROWS, 5).bool()):
        with pytest.raises(ValueError, match=r"shape \(3, 7\), but positions has shape \(3, 5\)"):
            model(token_ids(ROWS, 7))
        with pytest.raises(ValueError, match=r"shape \(3, 7\), but positions"):
            generate(model)
