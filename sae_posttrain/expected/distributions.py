"""A model's next-token logits for given texts, a few positions at a time.

A tensor of tokens × vocabulary is never in memory for a whole batch: the decoder runs once, and the head runs on chunks
of its output.
"""

# B batch, S sequence, D model width, N positions, V vocabulary

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..residual import inputs_device, padded, unwrap

LOGITS_AT_ONCE = 1 << 24  # 64 MiB in float32


@torch.no_grad()
def hidden_states(model: nn.Module, rows: Sequence[Sequence[int]]) -> Tensor:
    """The final hidden states, which are the input of the model's head, for token ids of any lengths.

    Args:
        model: a transformers model with a language-model head, perhaps wrapped.
        rows: token ids of each text.

    Returns:
        `(B, S, D)`, where S is the length of the longest text. Positions after the end of a shorter text are undefined.
    """
    base = unwrap(model)
    ids_BS, mask_BS = padded(rows, inputs_device(model))
    output = base.base_model(input_ids=ids_BS, attention_mask=mask_BS, use_cache=False, return_dict=True)
    hidden_BSD: Tensor = output.last_hidden_state
    return hidden_BSD


@torch.no_grad()
def logits_of(model: nn.Module, hidden_ND: Tensor, at_once: int = LOGITS_AT_ONCE) -> Iterator[Tensor]:
    """The logits of hidden states, computed by the model's own head with its softcap, scale and LoRA adapters.

    Args:
        model: a transformers model with a language-model head, perhaps wrapped.
        hidden_ND: `(N, D)` from `hidden_states`.
        at_once: number of logits that are held in memory at once.

    Yields:
        `(n, V)` in float32, the logits of the next n positions, until all N positions are done.
    """
    base = unwrap(model)
    chunk = max(1, at_once // base.config.get_text_config().vocab_size)
    any_token_11 = torch.zeros(1, 1, dtype=torch.long, device=inputs_device(model))
    for part_nD in hidden_ND.split(chunk):

        def put_in(module: nn.Module, args: Any, output: Any, part_nD: Tensor = part_nD) -> Any:
            output.last_hidden_state = part_nD[None]
            return output

        # The decoder runs on one token, and the head gets these hidden states in place of that token's.
        handle = base.base_model.register_forward_hook(put_in)
        try:
            logits_nV = base(input_ids=any_token_11, use_cache=False, return_dict=True).logits[0]
        finally:
            handle.remove()
        yield logits_nV.float()
