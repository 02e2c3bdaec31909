"""A frozen head is not copied for every row while responses are sampled."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tiny_models import TEXT, qwen3, word_tokenizer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sae_posttrain.sampling import SamplingSettings, sample_responses
from sae_posttrain.sampling.head import contiguous_head

ROWS, VOCABULARY = 6, 300


class BatchedProducts(TorchDispatchMode):
    """The largest right-hand side of a batched matrix product; torch's bfloat16 kernel copies it whole."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.bmm.default:
            self.numbers = max(self.numbers, args[1].numel())
        return func(*args, **(kwargs or {}))


def prefill(model: nn.Module) -> int:
    ids = torch.randint(3, VOCABULARY, (ROWS, 5))
    with BatchedProducts() as products, torch.no_grad():
        model(input_ids=ids, logits_to_keep=1)
    return products.numbers


def test_why_it_is_needed() -> None:
    """torch expands a frozen head for each row. Should it no longer, `contiguous_head` can go."""
    model = qwen3(VOCABULARY).eval()
    copied = ROWS * VOCABULARY * TEXT["hidden_size"]
    assert prefill(model) < copied
    model.requires_grad_(False)
    assert prefill(model) == copied
    with contiguous_head(model):
        assert prefill(model) < copied
    assert prefill(model) == copied  # and the hook is gone


def test_sampling_with_an_adapter_makes_no_copy() -> None:
    words = [f"w{number}" for number in range(VOCABULARY - 2)]
    tokenizer = word_tokenizer([" ".join(words)], "<pad>", "<end>")
    model = get_peft_model(qwen3(len(tokenizer)), LoraConfig(target_modules=["q_proj"])).eval()
    with BatchedProducts() as products:
        one = SamplingSettings(max_new_tokens=3)
        sample_responses(model, tokenizer, ["w1 w2 w3"] * ROWS, one, samples=1, progress=False)
    assert products.numbers < ROWS * VOCABULARY * TEXT["hidden_size"]


def test_a_model_without_a_head_is_left_alone() -> None:
    with contiguous_head(nn.Linear(2, 2)), contiguous_head(qwen3(VOCABULARY).model):
        pass
