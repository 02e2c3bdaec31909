"""The head on chunks of hidden states gives what the model's own forward pass gives."""

from __future__ import annotations

import pytest
import torch
import transformers as tf
from peft import LoraConfig, get_peft_model
from tiny_models import MODELS, TEXT, VOCABULARY, make
from torch import nn
from torch.testing import assert_close

from sae_posttrain.expected.distributions import hidden_states, logits_of

ROWS = [[5, 6, 7, 8, 9, 10], [11, 12, 13], [14]]


def assert_own_logits(model: nn.Module) -> None:
    hidden_BSD = hidden_states(model, ROWS)
    for row, hidden_SD in zip(ROWS, hidden_BSD, strict=True):
        parts = list(logits_of(model, hidden_SD[: len(row)], at_once=2 * VOCABULARY))
        assert [len(part) for part in parts] == [2] * (len(row) // 2) + [1] * (len(row) % 2)
        with torch.no_grad():
            own_SV = model(input_ids=torch.tensor([row])).logits[0]
        assert_close(torch.cat(parts), own_SV.float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "Qwen3Model"])
def test_logits_are_the_models_own(name: str) -> None:
    assert_own_logits(make(name))


def test_whatever_follows_the_head_is_done() -> None:
    torch.manual_seed(0)
    granite = tf.GraniteForCausalLM(tf.GraniteConfig(**TEXT, logits_scaling=7.0, embedding_multiplier=3.0)).eval()
    gemma = tf.Gemma2ForCausalLM(tf.Gemma2Config(**TEXT, sliding_window=8, final_logit_softcapping=0.5)).eval()
    for model in (granite, gemma):
        assert_own_logits(model)


def test_adapters_are_on_in_blocks_and_head() -> None:
    model = get_peft_model(make(), LoraConfig(target_modules=["q_proj", "lm_head"], init_lora_weights=False)).eval()
    assert_own_logits(model)
    with model.disable_adapter():
        plain = next(logits_of(model, hidden_states(model, ROWS)[0]))
    assert not torch.allclose(plain, next(logits_of(model, hidden_states(model, ROWS)[0])))


def test_no_hook_is_left_behind() -> None:
    model = make()
    list(logits_of(model, hidden_states(model, ROWS)[0], at_once=VOCABULARY))
    assert not model.model._forward_hooks
