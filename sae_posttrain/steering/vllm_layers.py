"""Steering in vLLM's layout, without vLLM: alpha of every token of a flattened batch, and the layers that add it."""

# L token slots of a worker, T tokens of a step, R requests with tokens in it, D model width

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

# Blocks whose source was read: they return `(hidden, residual)`, each of them whole on every rank of a tensor-parallel
# group, and the residual stream is their sum. A block that leaves a partial sum would be steered once for each rank.
KNOWN_BLOCKS = (
    *("LlamaDecoderLayer", "MistralDecoderLayer"),
    *("Qwen2DecoderLayer", "Qwen3DecoderLayer", "Qwen3MoeDecoderLayer"),
    *("Gemma2DecoderLayer", "Gemma3DecoderLayer"),
)


def token_strength(alpha_R: Tensor, prompt_R: Tensor, computed_R: Tensor, scheduled_R: Tensor) -> Tensor:
    """Alpha of each token of a step, `(T,)`, request after request; zero where a token is not steered.

    As with `steer`, a request is steered from the last position of its prompt on, off which its first token is read.
    How its tokens are spread over steps makes no difference: chunks of a prompt, one token at a time, or all that was
    generated at once when a preempted request is computed again.

    prompt_R: lengths of the prompts. computed_R: positions that lie before this step's. scheduled_R: tokens in it.
    """
    row_T = torch.repeat_interleave(scheduled_R)
    begin_R = scheduled_R.cumsum(0) - scheduled_R
    position_T = torch.arange(len(row_T)) + (computed_R - begin_R)[row_T]
    return alpha_R[row_T] * (position_T >= prompt_R[row_T] - 1)


def find_blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks of a vLLM model.

    Raises:
        ValueError: the model has none that are known to be steered rightly.
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


def steer_blocks(blocks: nn.ModuleList, directions: Mapping[int, Tensor], strength_L: Tensor) -> None:
    """Make blocks add `strength · direction` to the residual of every token, whatever the strengths will be by then.

    Before a model is compiled or captured: the addition becomes part of it. Strengths and directions are buffers of
    the blocks, so that compiled code and CUDA graphs read them where they lie, and a sleeping vLLM keeps them.

    directions: layer → `(D,)`, on the model's device. A layer that another pipeline stage holds is left to it.

    Raises:
        ValueError: a layer the model does not have.
    """
    for layer, direction_D in directions.items():
        if not 0 <= layer < len(blocks):
            raise ValueError(f"Layer {layer} is out of range: the model has blocks 0 to {len(blocks) - 1}.")
        block = blocks[layer]
        if not _is_known(block):
            continue
        block.register_buffer("steering_strength_L", strength_L, persistent=False)
        block.register_buffer("steering_direction_D", direction_D, persistent=False)
        block.register_forward_hook(_add)


def _is_known(block: nn.Module) -> bool:
    # Transformers' blocks, which vLLM can run too, have the same names; only vLLM's hand the residual on by itself.
    return type(block).__name__ in KNOWN_BLOCKS and "residual" in inspect.signature(type(block).forward).parameters


def _add(block: Any, args: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    # No closure: all that the compiler may have to find again lies on the module.
    hidden_TD, residual_TD = output
    strength_T = block.steering_strength_L.narrow(0, 0, hidden_TD.shape[0])
    return hidden_TD + (strength_T[:, None] * block.steering_direction_D).to(hidden_TD.dtype), residual_TD
