"""Keep torch from copying a frozen head's weights for every row of a batch."""

# B batch, S sequence, D model width, V vocabulary

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def contiguous_head(model: Any) -> Iterator[None]:
    """Hand the language-model head contiguous inputs inside the block.

    `generate` gives the head the last position of `(B, S, D)` hidden states, a slice with gaps between its rows. Where
    the head's weight needs no gradient, as under LoRA, `torch.matmul` does not fold such an input into a matrix. It
    expands the weight to `(B, D, V)`, which the CPU's bfloat16 kernel then copies: 5 GB for 16 rows of Gemma 3 270M. A
    contiguous input is folded. So is every input where the weight needs a gradient, as merged weights do.

    Args:
        model: a transformers model, perhaps with PEFT adapters. One without a head is left alone.

    Source: `should_fold` in torch's aten/src/ATen/native/LinearAlgebra.cpp.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None:
        yield
        return

    def fold(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden_BSD: Tensor = args[0]
        return (hidden_BSD.contiguous(), *args[1:])

    handle = head.register_forward_pre_hook(fold)
    try:
        yield
    finally:
        handle.remove()
