"""Steering in vLLM's layout, without importing vLLM: the alpha of each token in a flattened batch, and the hooks."""

# L token slots of a worker, T tokens of a step, R requests with tokens in it, S steered layers, N choices of features,
# D model width

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

# Blocks whose source we have read. They return `(hidden, residual)`, whose sum is the residual stream. Both are whole
# on every rank of a tensor-parallel group. A block that returns a partial sum would be steered once per rank.
KNOWN_BLOCKS = (
    *("LlamaDecoderLayer", "MistralDecoderLayer"),
    *("Qwen2DecoderLayer", "Qwen3DecoderLayer", "Qwen3MoeDecoderLayer"),
    *("Gemma2DecoderLayer", "Gemma3DecoderLayer"),
)


def token_strength(alpha_R: Tensor, prompt_R: Tensor, computed_R: Tensor, scheduled_R: Tensor) -> Tensor:
    """Alpha of each token of a step, `(T,)` or `(S, T)`, request after request; zero where a token is not steered.

    As with `steer`, a request is steered from the last position of its prompt on, where its first token is predicted.
    The result does not depend on how vLLM spreads tokens over steps: chunks of a prompt, one token at a time, or all
    generated tokens at once when a preempted request is computed again.

    Args:
        alpha_R: `(R,)` alpha of each request; or `(S, R)`, for each layer.
        prompt_R: `(R,)` lengths of the prompts.
        computed_R: `(R,)` number of positions computed before this step.
        scheduled_R: `(R,)` number of tokens in this step.
    """
    row_T = torch.repeat_interleave(scheduled_R)
    begin_R = scheduled_R.cumsum(0) - scheduled_R
    position_T = torch.arange(len(row_T)) + (computed_R - begin_R)[row_T]
    return alpha_R[..., row_T] * (position_T >= prompt_R[row_T] - 1)


def find_blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks of a vLLM model.

    Raises:
        ValueError: the model has no blocks of a kind that is known to be steered correctly.
    """
    found = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and any(_is_known(block) for block in module)
    ]
    if len(found) != 1:
        raise ValueError(
            f"Found {len(found)} stacks of decoder blocks to steer in vLLM's {type(model).__name__}, expected one of "
            f"{', '.join(KNOWN_BLOCKS)}. Generate with transformers instead."
        )
    return found[0]


def steer_blocks(
    blocks: nn.ModuleList, directions: Mapping[int, Tensor], strengths: Mapping[int, Tensor], choice_L: Tensor
) -> None:
    """Make blocks add `strength · direction` to the residual of every token.

    Call it before the model is compiled or captured, so that the addition becomes part of the compiled code. Strengths
    and directions are buffers of the blocks. Compiled code and CUDA graphs read the buffers' current values, and vLLM's
    sleep mode keeps them.

    Args:
        blocks: the decoder blocks, as `find_blocks` returns them.
        directions: layer → `(N, D)` directions to choose from, on the model's device. A layer on another pipeline stage
            is skipped.
        strengths: layer → `(L,)` strength of each token slot. Change it in place before each step.
        choice_L: `(L,)` which of the directions each token slot takes. Not read where there is only one.

    Raises:
        ValueError: the model does not have one of the layers.
    """
    for layer, direction_ND in directions.items():
        if not 0 <= layer < len(blocks):
            raise ValueError(f"Layer {layer} is out of range: the model has blocks 0 to {len(blocks) - 1}.")
        block = blocks[layer]
        if not _is_known(block):
            continue
        block.register_buffer("steering_strength_L", strengths[layer], persistent=False)
        block.register_buffer("steering_direction_ND", direction_ND, persistent=False)
        if len(direction_ND) == 1:
            block.register_forward_hook(_add)
        else:
            block.register_buffer("steering_choice_L", choice_L, persistent=False)
            block.register_forward_hook(_add_chosen)


def _is_known(block: nn.Module) -> bool:
    # vLLM can also run transformers' blocks, which have the same names. Only vLLM's own blocks return the residual
    # separately.
    return type(block).__name__ in KNOWN_BLOCKS and "residual" in inspect.signature(type(block).forward).parameters


def _add(block: Any, args: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    # Not a closure: the compiler must find everything it needs on the module.
    hidden_TD, residual_TD = output
    strength_T = block.steering_strength_L.narrow(0, 0, hidden_TD.shape[0])
    return hidden_TD + (strength_T[:, None] * block.steering_direction_ND).to(hidden_TD.dtype), residual_TD


def _add_chosen(block: Any, args: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    hidden_TD, residual_TD = output
    strength_T = block.steering_strength_L.narrow(0, 0, hidden_TD.shape[0])
    direction_TD = block.steering_direction_ND[block.steering_choice_L.narrow(0, 0, hidden_TD.shape[0])]
    return hidden_TD + (strength_T[:, None] * direction_TD).to(hidden_TD.dtype), residual_TD
