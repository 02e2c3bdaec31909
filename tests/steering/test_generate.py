"""Steering adds what it says, where it says and nowhere else, whatever the model and what wraps it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import steering_workers
import torch
import torch.multiprocessing
from peft import LoraConfig, get_peft_model
from steering_cases import (
    ALPHA,
    DENSE,
    EXPERTS,
    GENERATING,
    GREEDY,
    LAYERS,
    PROMPT,
    ROWS,
    STEERED,
    STEPS,
    by_hand,
    directions,
    feature_set,
    generate,
    logits_and_tokens,
    padded,
    replaced_blocks,
)
from tiny_models import BLOCKS, WIDTH, make, token_ids
from torch import Tensor, nn
from torch.testing import assert_close

from sae_posttrain import steer
from sae_posttrain.residual import capture, decoder_blocks


@pytest.mark.parametrize("name", GENERATING)
def test_generation_agrees_with_a_decoding_by_hand(name: str) -> None:
    model = make(name)
    plain = generate(model)
    with steer(model, directions(), alpha=ALPHA, rows=STEERED):
        logits, tokens = logits_and_tokens(model)
    expected_logits, expected = by_hand(model)
    assert_close(logits, expected_logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(tokens, expected)
    assert torch.equal(tokens[~STEERED], plain[~STEERED])
    assert (tokens != plain)[STEERED].any(dim=1).all()
    late, _ = by_hand(model, first=PROMPT)  # the oracle can tell when the first token is left out
    assert not torch.allclose(late[STEERED, 0], logits[STEERED, 0], rtol=1e-2)


@pytest.mark.parametrize("name", [name for name in GENERATING if "Qwen3_5" in name])
@pytest.mark.parametrize("layer", range(BLOCKS))
def test_each_kind_of_layer_of_a_hybrid_is_steered_at_every_step(name: str, layer: int) -> None:
    model = make(name)
    kinds = model.config.get_text_config().layer_types
    assert kinds == ["linear_attention"] * 3 + ["full_attention"]
    with steer(model, directions((layer,)), alpha=ALPHA, rows=STEERED):
        logits, tokens = logits_and_tokens(model)
    expected_logits, expected = by_hand(model, (layer,))
    assert_close(logits, expected_logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(tokens, expected)


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "temperature": 1.5}], ids=["greedy", "sampled"])
def test_rows_that_are_not_steered_are_the_same_bit_for_bit(name: str, sampling: dict[str, Any]) -> None:
    model = make(name)
    torch.manual_seed(3)
    plain_logits, plain = logits_and_tokens(model, **sampling)
    torch.manual_seed(3)
    with steer(model, directions(), alpha=3, rows=STEERED):
        logits, tokens = logits_and_tokens(model, **sampling)
    assert torch.equal(tokens[~STEERED], plain[~STEERED])
    assert torch.equal(logits[~STEERED], plain_logits[~STEERED])
    assert not (logits[STEERED, 0] == plain_logits[STEERED, 0]).all(dim=-1).any()


@pytest.mark.parametrize("name", EXPERTS)
def test_with_experts_the_same_tokens(name: str) -> None:
    model = make(name)
    torch.manual_seed(3)
    plain = generate(model, do_sample=True)
    torch.manual_seed(3)
    with steer(model, directions(), alpha=3, rows=STEERED):
        tokens = generate(model, do_sample=True)
    assert torch.equal(tokens[~STEERED], plain[~STEERED])
    assert not torch.equal(tokens[STEERED], plain[STEERED])


def test_alpha_counts_typical_strengths_of_a_feature_set() -> None:
    model, features = make(), feature_set()
    own = {
        layer.layer: -1.5 * sum(layer.typical[f] * layer.direction[f] for f in range(2)) for layer in features.layers
    }
    with steer(model, features, alpha=-1.5, rows=STEERED):
        logits, _ = logits_and_tokens(model)
    with steer(model, own, rows=STEERED):
        expected, _ = logits_and_tokens(model)
    assert_close(logits, expected)
    with steer(model, features.select(["zh"]), alpha=-1.5, rows=STEERED):
        assert not torch.allclose(logits_and_tokens(model)[0], expected)


@pytest.mark.parametrize("name", GENERATING)
def test_alpha_zero_changes_nothing(name: str) -> None:
    model = make(name)
    plain, _ = logits_and_tokens(model)
    with steer(model, directions(), alpha=0):
        assert torch.equal(logits_and_tokens(model)[0], plain)
    with steer(model, directions(), alpha=5, rows=[False] * ROWS):
        assert torch.equal(logits_and_tokens(model)[0], plain)


def test_prompts_are_left_alone_and_generated_positions_get_the_delta() -> None:
    model = make()
    ids = token_ids(ROWS, PROMPT)
    (layer, direction_D), *_ = directions().items()
    seen: list[Tensor] = []
    with steer(model, {layer: direction_D}, alpha=ALPHA, rows=STEERED):
        handle = decoder_blocks(model)[layer].register_forward_hook(lambda module, args, out: seen.append(out))
        full = model.generate(ids, **GREEDY)
    handle.remove()
    with capture(model, [layer]) as residuals:
        model(full[:, :-1])
    added_BSD = torch.cat(seen, dim=1) - residuals[layer]
    assert_close(added_BSD[:, : PROMPT - 1], torch.zeros(ROWS, PROMPT - 1, WIDTH))
    expected = ((ALPHA * STEERED)[:, None] * direction_D)[:, None].expand(-1, STEPS, -1)
    assert_close(added_BSD[:, PROMPT - 1 :], expected)
    assert [part.shape[1] for part in seen] == [PROMPT] + [1] * (STEPS - 1)


def test_precision_is_the_models() -> None:
    model = make().bfloat16()
    plain, _ = logits_and_tokens(model)
    with steer(model, directions(), alpha=ALPHA.double(), rows=STEERED), capture(model, [LAYERS[-1]]) as residuals:
        model.generate(**padded(), **GREEDY | {"max_new_tokens": 1})
    assert residuals[LAYERS[-1]].dtype == torch.bfloat16
    with steer(model, directions(), alpha=ALPHA, rows=STEERED):
        logits, _ = logits_and_tokens(model)
    assert torch.equal(logits[~STEERED], plain[~STEERED])
    assert not torch.equal(logits[STEERED], plain[STEERED])


def test_blocks_of_steering_add_up() -> None:
    model, (one, two) = make(), directions().items()
    with steer(model, dict([one, two]), rows=STEERED):
        expected = generate(model)
    with steer(model, dict([one]), rows=STEERED), steer(model, dict([two]), rows=STEERED):
        assert torch.equal(generate(model), expected)
    with steer(model, dict([one]), rows=STEERED), steer(model, dict([one]), alpha=-1, rows=STEERED):
        assert torch.equal(generate(model), generate(make()))


def given_positions() -> tuple[Tensor, Tensor]:
    return token_ids(ROWS, 9), torch.rand(ROWS, 9) > 0.5


@pytest.mark.parametrize("name", GENERATING)
def test_a_forward_over_prompt_and_answer_gives_the_distribution_that_was_sampled_from(name: str) -> None:
    model = make(name)
    inputs = padded()
    with steer(model, directions(), alpha=ALPHA, rows=STEERED):
        logits, tokens = logits_and_tokens(model, do_sample=True)
    ids = torch.cat([inputs["input_ids"], tokens], dim=1)
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(tokens)], dim=1)
    positions = torch.zeros_like(ids, dtype=torch.bool)
    positions[:, PROMPT - 1 :] = True
    with steer(model, directions(), alpha=ALPHA, rows=STEERED, positions=positions):
        forward = model(input_ids=ids, attention_mask=mask).logits[:, PROMPT - 1 : -1]
    assert_close(forward, logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(input_ids=ids, attention_mask=mask).logits[:, PROMPT - 1 : -1], logits, rtol=1e-2)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_flow_through_steered_positions(checkpointing: bool) -> None:
    model = make().train()
    ids, positions = given_positions()
    parameters = list(model.parameters())
    strength_BS = (ALPHA * STEERED)[:, None] * positions

    def adding(direction_D: Tensor) -> Callable[[int], Tensor]:
        return lambda length: strength_BS[:, :, None] * direction_D

    with replaced_blocks(model, {layer: adding(direction) for layer, direction in directions().items()}):
        wanted = torch.autograd.grad(model(ids).logits.square().sum(), parameters)
    if checkpointing:
        model.gradient_checkpointing_enable()
    with steer(model, directions(), alpha=ALPHA, rows=STEERED, positions=positions):
        logits = model(ids, use_cache=False).logits
    got = torch.autograd.grad(logits.square().sum(), parameters)  # outside: checkpoints must not need the block
    for got_one, wanted_one in zip(got, wanted, strict=True):
        assert_close(got_one, wanted_one)


def test_through_lora() -> None:
    model = get_peft_model(make(), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)).eval()
    with steer(model, directions(), alpha=ALPHA, rows=STEERED):
        tokens = generate(model)
    assert torch.equal(tokens, by_hand(model)[1])
    assert not torch.equal(tokens, by_hand(make())[1])  # the adapter took part


@pytest.mark.parametrize("whole", [True, False], ids=["model.compile", "torch.compile"])
@pytest.mark.parametrize("before", [False, True], ids=["fresh", "after a compiled forward"])
def test_what_is_compiled_is_steered_and_stays_compiled(whole: bool, before: bool) -> None:
    runs: list[str] = []

    def backend(graph: Any, inputs: Any) -> Callable[..., Any]:
        return lambda *args: (runs.append("compiled"), graph(*args))[1]

    torch._dynamo.reset()
    model = make()
    compiled: Any = model if whole else torch.compile(model, backend=backend)
    if whole:
        model.compile(backend=backend)
    if before:
        compiled(**padded())
    done = len(runs)
    with steer(compiled, directions(), alpha=ALPHA, rows=STEERED):
        tokens = generate(compiled)
    assert torch.equal(tokens, by_hand(make())[1])
    assert len(runs) == done
    assert torch.equal(compiled(**padded()).logits, make()(**padded()).logits)
    assert len(runs) > done


def test_through_two_processes(tmp_path: Path) -> None:
    """Under DDP and under FSDP2, in one launch."""
    workers = (steering_workers.ddp, steering_workers.fsdp2)
    torch.multiprocessing.spawn(  # type: ignore[attr-defined]
        steering_workers.run, (workers, str(tmp_path / "store")), nprocs=steering_workers.RANKS
    )


def test_blocks_that_return_tuples() -> None:
    class Block(nn.Module):
        def forward(self, hidden: Tensor) -> tuple[Tensor, str]:
            return hidden + 1, "cache"

    class Decoder(nn.Module):
        config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(hidden_size=4))

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Block(), Block()])

        def forward(self, hidden: Tensor) -> Tensor:
            for layer in self.layers:
                hidden, cache = layer(hidden)
                assert cache == "cache"
            return hidden

    positions = torch.tensor([[True, False], [False, False]])
    model = Decoder()
    with steer(model, {0: torch.ones(4)}, alpha=3, positions=positions):
        assert torch.equal(model(torch.zeros(2, 2, 4)), 2 + 3 * positions[:, :, None].expand(-1, -1, 4))
