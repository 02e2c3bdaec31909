"""The residual stream: find a model's decoder blocks, and read or change their outputs.

Layers are 0-based decoder blocks everywhere; "the residual of layer n" is the *output* of block n.
"""

# B batch, S sequence, D model width

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.hooks import RemovableHandle


class Removable(Protocol):
    """The handle of a hook, such as torch's `RemovableHandle`."""

    def remove(self) -> None: ...


def unwrap(model: nn.Module) -> Any:
    """The transformers model inside DDP, DeepSpeed, `torch.compile` and PEFT wrappers, in any nesting."""
    inner: Any = model
    while True:
        if isinstance(getattr(inner, "_orig_mod", None), nn.Module):
            inner = inner._orig_mod  # torch.compile
        elif hasattr(inner, "get_base_model"):
            inner = inner.get_base_model()  # PEFT
        elif not hasattr(inner, "get_decoder") and isinstance(getattr(inner, "module", None), nn.Module):
            inner = inner.module  # DDP, DeepSpeed
        else:
            return inner


# What configurations call the number of residual streams: AltUp in Gemma 3n, hyper-connections in DeepSeek-V4.
STREAM_COUNTS = ("altup_num_inputs", "hc_mult", "hc_count")


def decoder(model: nn.Module) -> Any:
    """The text decoder of a model: the module with the blocks, without the language-model head or vision tower.

    Raises:
        ValueError: the model has no `get_decoder().layers`, or several residual streams.
    """
    base = unwrap(model)
    found = base.get_decoder() if hasattr(base, "get_decoder") else base
    if not isinstance(getattr(found, "layers", None), nn.ModuleList):
        raise ValueError(
            f"No decoder blocks found in {type(base).__name__}: expected a transformers decoder whose "
            "`get_decoder()` has a `layers` list (Qwen, Gemma, Llama, Mistral, …)."
        )
    config = getattr(found, "config", None)
    for name in STREAM_COUNTS:
        if (streams := getattr(config, name, None) or 1) > 1:
            raise ValueError(
                f"{type(base).__name__} keeps {streams} residual streams side by side ({name}={streams} in its "
                "configuration). An SAE reads one residual per token, so SAE features cannot be used with this model."
            )
    return found


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks from first to last; the model may be wrapped."""
    blocks: nn.ModuleList = decoder(model).layers
    return blocks


def hook_residuals(
    model: nn.Module, layers: Iterable[int], see: Callable[[int, Tensor], Tensor | None]
) -> list[Removable]:
    """Call `see(layer, residual_BSD)` on every forward of the given blocks; remove the returned handles to stop.

    If `see` returns a tensor, it replaces the residual. Under gradient checkpointing, `see` is called once and outside
    the checkpoint, so that the residual has its gradient. Enable checkpointing before you call this.

    Raises:
        ValueError: a layer the model does not have.
    """
    blocks = decoder_blocks(model)
    layers = list(layers)
    for layer in layers:
        if not 0 <= layer < len(blocks):
            raise ValueError(f"Layer {layer} is out of range: the model has blocks 0 to {len(blocks) - 1}.")
    return [_hook_block(blocks[layer], partial(see, layer)) for layer in layers]


def _hook_block(block: nn.Module, see: Callable[[Tensor], Tensor | None]) -> Removable:
    def show(output: Any) -> Any:
        # transformers 5 returns a tensor, older versions a tuple. Indexing a tensor would silently take one row.
        bare = isinstance(output, Tensor)
        changed_BSD = see(output if bare else output[0])
        if changed_BSD is None:
            return output
        return changed_BSD if bare else (changed_BSD, *output[1:])

    if _hooks_run_inside_checkpoint(block):
        return _AroundCheckpoint(block, show)
    return block.register_forward_hook(lambda module, args, output: show(output))


def _hooks_run_inside_checkpoint(block: nn.Module) -> bool:
    """Whether a block's checkpoint includes its hooks, as before transformers 5.23."""
    classes = (one for one in type(block).__mro__ if one.__name__ == "GradientCheckpointingLayer")
    inside = any("__call__" in vars(one) for one in classes)
    return inside and hasattr(block, "_gradient_checkpointing_func")


class _AroundCheckpoint:
    """Calls `show` on a block's output, outside the block's checkpoint if there is one.

    Inside a reentrant checkpoint a hook runs without a gradient, and again during the backward pass.
    """

    def __init__(self, block: Any, show: Callable[[Any], Any]) -> None:
        self._block, self._show = block, show
        self._checkpoint = block._gradient_checkpointing_func
        block._gradient_checkpointing_func = self
        self._handle = block.register_forward_hook(self._hook)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._show(self._checkpoint(*args, **kwargs))

    def _hook(self, block: Any, args: Any, output: Any) -> Any:
        return None if block.gradient_checkpointing and block.training else self._show(output)

    def remove(self) -> None:
        self._handle.remove()
        self._show = lambda output: output
        if self._block._gradient_checkpointing_func is self:
            self._block._gradient_checkpointing_func = self._checkpoint


def hook_hidden_states(model: nn.Module, see: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Call `see(hidden_BSD)` on every forward with the decoder's output after its final norm, the head's input.

    If `see` returns a tensor, it replaces that output. `torch.compile` does not trace the hook: it runs between graphs.
    """

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            changed_BSD = see(output[0])
            return None if changed_BSD is None else (changed_BSD, *output[1:])
        changed_BSD = see(output.last_hidden_state)
        if changed_BSD is not None:
            output.last_hidden_state = changed_BSD
        return output

    handle: RemovableHandle = decoder(model).register_forward_hook(torch.compiler.disable(hook))
    return handle


@contextmanager
def capture(model: nn.Module, layers: Iterable[int]) -> Iterator[dict[int, Tensor]]:
    """Capture the residual that leaves each layer, during one forward pass inside the block.

    It yields an empty dict that fills as the blocks run: layer → residual `(B, S, D)`. The residuals are part of the
    autograd graph if there is one.

    Raises:
        ValueError: a layer the model does not have.
        RuntimeError: a layer ran twice in one capture.
    """
    residuals: dict[int, Tensor] = {}

    def keep(layer: int, residual_BSD: Tensor) -> None:
        if layer in residuals:
            raise RuntimeError(f"Layer {layer} ran twice in one capture; open one capture per forward.")
        residuals[layer] = residual_BSD

    handles = hook_residuals(model, layers, keep)
    try:
        yield residuals
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode inside the block. Afterwards each module is in its previous mode.

    `model.train()` would not restore it: a frozen part of a model in training may be in evaluation mode.
    """
    training = [module for module in model.modules() if module.training]
    rotary = [(module, *_plain_state(module)) for module in model.modules() if "max_seq_len_cached" in vars(module)]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for module, attributes, buffers in rotary:  # dynamic RoPE grows with the longest text it has read
            vars(module).update(attributes)
            module._buffers.update(buffers)


def _plain_state(module: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor | None]]:
    """A module's buffers, and its attributes other than its mode, parameters and submodules."""
    kept = {name: value for name, value in vars(module).items() if not name.startswith("_") and name != "training"}
    return kept, dict(module._buffers)


def padded(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Pad sequences of any lengths: token ids `(B, S)`, and the mask `(B, S)` of the positions that are not padding.

    Padding goes after a sequence and has id 0. Tokenizers of base models may have no padding token, and any id is valid
    at a masked position.
    """
    rows = [torch.tensor(ids, dtype=torch.long) for ids in sequences]
    ids_BS = pad_sequence(rows, batch_first=True)
    mask_BS = pad_sequence([torch.ones_like(ids) for ids in rows], batch_first=True)
    return ids_BS.to(device), mask_BS.to(device)


@torch.no_grad()
def read_residuals(
    model: nn.Module, layers: Iterable[int], sequences: Sequence[Sequence[int]]
) -> tuple[dict[int, Tensor], Tensor]:
    """Run the model over token sequences once, in evaluation mode and without gradients.

    Only the decoder runs. The head's logits would be the largest tensor of the pass, and they are not needed.

    Args:
        model: a transformers model, which may be wrapped. Afterwards each module is in its previous mode.
        layers: 0-based decoder blocks.
        sequences: token ids, of any lengths; at least one of them.

    Returns:
        For each layer the residual `(B, S, D)` that leaves it, and the mask `(B, S)` of the positions that are not
        padding. S is the longest sequence.

    Raises:
        ValueError: a layer that the model does not have.

    Example:
        >>> residuals, mask_BS = read_residuals(model, [1], [[3, 4, 5], [6]])
        >>> residuals[1][mask_BS.bool()].shape[0]
        4
    """
    ids_BS, mask_BS = padded(sequences, inputs_device(model))
    with evaluating(model), capture(model, layers) as residuals:
        decoder(model)(input_ids=ids_BS, attention_mask=mask_BS, use_cache=False)
    return residuals, mask_BS


def text_config(model: nn.Module) -> Any:
    """The configuration of the text decoder (`hidden_size`, `num_hidden_layers`), also of a multimodal model."""
    return unwrap(model).config.get_text_config()


def inputs_device(model: nn.Module) -> torch.device:
    """The device on which a model expects its token ids: that of its input embeddings."""
    device: torch.device = unwrap(model).get_input_embeddings().weight.device
    return device
