"""Blocks are found and residuals captured as `output_hidden_states` says, whatever the model and its wrapper."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import residual_workers
import torch
import torch.multiprocessing
import transformers as tf
from peft import LoraConfig, get_peft_model
from tiny_models import BLOCKS, MODELS, TEXT, VOCABULARY, WIDTH, make, token_ids
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import PreTrainedModel

from sae_posttrain.residual import capture, decoder, decoder_blocks, inputs_device, text_config, unwrap

ALL = list(range(BLOCKS))


def oracle(model: PreTrainedModel, ids: Tensor) -> tuple[Tensor, ...]:
    """What transformers reports: block outputs, except that the last has been through the final norm."""
    return model(input_ids=ids, output_hidden_states=True).hidden_states[1:]


def assert_agrees(residuals: dict[int, Tensor], expected: tuple[Tensor, ...], norm: Any) -> None:
    assert list(residuals) == ALL
    for layer in ALL[:-1]:
        assert_close(residuals[layer], expected[layer], rtol=0, atol=0)
    assert_close(norm(residuals[ALL[-1]]), expected[-1])
    assert not torch.allclose(residuals[ALL[-1]], expected[-1])


def hook_counts(model: nn.Module) -> list[int]:
    return [len(block._forward_hooks) for block in decoder_blocks(model)]


@pytest.mark.parametrize("name", MODELS)
def test_blocks_are_those_of_the_text_decoder(name: str) -> None:
    model = make(name)
    assert decoder_blocks(model) is model.get_submodule(MODELS[name][1])
    assert text_config(model).num_hidden_layers == len(decoder_blocks(model)) == BLOCKS
    assert text_config(model).hidden_size == WIDTH
    assert inputs_device(model) == torch.device("cpu")


@pytest.mark.parametrize("name", MODELS)
def test_capture_agrees_with_output_hidden_states(name: str) -> None:
    model, ids = make(name), token_ids()
    with capture(model, ALL) as residuals:
        model(input_ids=ids)
    assert residuals[0].shape == (*ids.shape, WIDTH)
    assert_agrees(residuals, oracle(model, ids), decoder(model).norm)


@pytest.mark.parametrize("name", MODELS)
def test_capture_changes_nothing(name: str) -> None:
    model, ids = make(name), token_ids()
    plain = model(input_ids=ids)[0]
    with capture(model, ALL):
        assert torch.equal(model(input_ids=ids)[0], plain)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_flow_to_the_layer_and_below(name: str, checkpointing: bool) -> None:
    model, ids, layer = make(name), token_ids(), BLOCKS - 2
    parameters = [p for p in decoder(model).parameters() if p.requires_grad]
    wanted = torch.autograd.grad(oracle(model, ids)[layer].square().sum(), parameters, allow_unused=True)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.train()  # checkpointing is off in evaluation mode; these models have no dropout
    with capture(model, [layer]) as residuals:
        model(input_ids=ids, use_cache=False)
        got = torch.autograd.grad(residuals[layer].square().sum(), parameters, allow_unused=True)
    assert [gradient is None for gradient in got] == [gradient is None for gradient in wanted]
    assert any(gradient is None for gradient in got)  # what lies above
    for got_one, wanted_one in zip(got, wanted, strict=True):
        if wanted_one is not None:
            assert_close(got_one, wanted_one)


def test_only_the_layers_asked_for() -> None:
    model = make()
    with capture(model, [2]) as residuals:
        model(input_ids=token_ids())
    assert list(residuals) == [2]


def test_capture_through_lora() -> None:
    base, ids = make(), token_ids()
    model = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)).eval()
    with capture(model, ALL) as residuals:
        model(input_ids=ids)
    assert unwrap(model) is base
    assert_agrees(residuals, oracle(model, ids), decoder(model).norm)
    assert not torch.allclose(residuals[0], oracle(make(), ids)[0])  # the adapter took part


@pytest.mark.parametrize("lora", [False, True])
def test_capture_through_compile(lora: bool) -> None:
    inner = get_peft_model(make(), LoraConfig(r=2, target_modules="all-linear")) if lora else make()
    torch._dynamo.reset()
    compiled: Any = torch.compile(inner, backend="eager")
    ids = token_ids()
    with capture(compiled, ALL) as residuals:
        compiled(input_ids=ids)
    assert_agrees(residuals, oracle(make(), ids), decoder(make()).norm)


def test_capture_through_nested_wrappers() -> None:
    class Engine(nn.Module):
        """As DeepSpeed and DDP do it: the model is `.module`, and its attributes are not forwarded."""

        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, **inputs: Tensor) -> object:
            return self.module(**inputs)

    base, ids = make(), token_ids()
    model = Engine(get_peft_model(base, LoraConfig(r=2, target_modules="all-linear")))
    with capture(model, ALL) as residuals:
        model(input_ids=ids)
    assert unwrap(model) is base
    assert_agrees(residuals, oracle(base, ids), decoder(model).norm)


def test_capture_through_two_processes(tmp_path: Path) -> None:
    """Under DDP and under FSDP2, in one launch."""
    workers = (residual_workers.ddp, residual_workers.fsdp2)
    torch.multiprocessing.spawn(  # type: ignore[attr-defined]
        residual_workers.run, (workers, str(tmp_path / "store")), nprocs=residual_workers.RANKS
    )


def test_blocks_that_return_tuples() -> None:
    class Block(nn.Module):
        def forward(self, hidden: Tensor) -> tuple[Tensor, str]:
            return hidden + 1, "cache"

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Block(), Block()])

        def forward(self, hidden: Tensor) -> Tensor:
            for layer in self.layers:
                hidden = layer(hidden)[0]
            return hidden

    model = Decoder()
    with capture(model, [0, 1]) as residuals:
        model(torch.zeros(3, 2, 4))
    assert torch.equal(residuals[0], torch.full((3, 2, 4), 1.0))
    assert torch.equal(residuals[1], torch.full((3, 2, 4), 2.0))


def test_two_forwards_in_one_capture_are_refused() -> None:
    model, ids = make(), token_ids()
    before = hook_counts(model)
    with capture(model, [1]):
        model(input_ids=ids)
        with pytest.raises(RuntimeError, match=r"Layer 1 ran twice.*one capture per forward"):
            model(input_ids=ids)
    assert hook_counts(model) == before
    with capture(model, [1]) as residuals:  # and the next one works
        model(input_ids=ids)
    assert list(residuals) == [1]


@pytest.mark.parametrize("layer", [-1, BLOCKS])
def test_a_layer_out_of_range_is_refused(layer: int) -> None:
    model = make()
    with (
        pytest.raises(ValueError, match=f"Layer {layer} is out of range.*0 to {BLOCKS - 1}"),
        capture(model, [0, layer]),
    ):
        pass
    assert hook_counts(model) == [0] * BLOCKS


def test_hooks_are_gone_after_the_block() -> None:
    model = make()
    before = hook_counts(model)
    with capture(model, ALL) as residuals:
        assert hook_counts(model) == [count + 1 for count in before]
        model(input_ids=token_ids())
    first = dict(residuals)
    model(input_ids=token_ids(seed=2))
    assert hook_counts(model) == before
    assert all(residuals[layer] is first[layer] for layer in ALL)


def test_hooks_are_gone_after_an_exception() -> None:
    model = make()
    with pytest.raises(ZeroDivisionError), capture(model, ALL):
        raise ZeroDivisionError
    assert hook_counts(model) == [0] * BLOCKS


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="No decoder blocks found in Sequential"):
        decoder_blocks(nn.Sequential(OrderedDict(head=nn.Linear(2, 2))))


def test_gemma_3n_is_refused_by_name_for_its_four_residual_streams() -> None:
    config = tf.Gemma3nTextConfig(
        **TEXT,
        layer_types=["full_attention"] * BLOCKS,
        num_kv_shared_layers=1,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8,
        laurel_rank=4,
        activation_sparsity_pattern=[0.0] * BLOCKS,
    )
    model = tf.Gemma3nForCausalLM(config)
    for wrapped in (model, nn.DataParallel(model)):
        with pytest.raises(ValueError, match="Gemma3nForCausalLM keeps 4 residual streams"), capture(wrapped, [0]):
            pass


@pytest.mark.parametrize("name", ["hc_mult", "hc_count"])
def test_hyper_connections_are_refused(name: str) -> None:
    model = make()
    model.config.update({name: 2})
    with pytest.raises(ValueError, match=f"2 residual streams side by side \\({name}=2"):
        decoder_blocks(model)
    model.config.update({name: 1})
    assert len(decoder_blocks(model)) == BLOCKS
