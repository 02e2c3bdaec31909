"""The language-model head: how logits come from the hidden state that leaves the decoder."""

# N positions, D model width, V vocabulary

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ...residual import hook_hidden_states, text_config, unwrap

_MULTIPLIERS = ("logit_scale", "output_multiplier", "lm_head_multiplier")


@dataclass(frozen=True)
class LogitTransform:
    """What a model does to the head's output: `softcap · tanh(scale · output / softcap)`.

    Args:
        scale: Cohere's `logit_scale`, Granite's `1 / logits_scaling`, Falcon-H1's `lm_head_multiplier`.
        softcap: Gemma's `final_logit_softcapping`; None without.
    """

    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits in float32, and their derivative by the output where it is not constant."""
        logits = output.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is None:
            return logits, None
        bounded = torch.tanh(logits / self.softcap)
        return bounded * self.softcap, 1 - bounded.square()


def transform_of(model: nn.Module) -> LogitTransform:
    """Read from the model's configuration."""
    config = text_config(model)
    scale = next((value for name in _MULTIPLIERS if (value := getattr(config, name, None)) is not None), None)
    divisor = getattr(config, "logits_scaling", None)
    if scale is None and divisor is not None:
        scale = divisor if config.model_type == "hyperclovax" else 1 / divisor
    softcap = getattr(config, "final_logit_softcapping", None)
    return LogitTransform(1.0 if scale is None else float(scale), softcap)


def head_of(model: nn.Module) -> Any:
    """The linear layer from the hidden state to the vocabulary, whatever wraps it; looked up anew for each forward.

    Raises:
        ValueError: there is none, or an adapter on it changes its output.
    """
    head = unwrap(model).get_output_embeddings()
    if hasattr(head, "modules_to_save"):  # PEFT's copy, which it trains in place of the original
        (adapter,) = head.active_adapters
        head = head.modules_to_save[adapter]
    if hasattr(head, "base_layer") or hasattr(head, "token_adapter"):
        raise ValueError(
            f"The head is a {type(head).__name__}: PEFT adds an adapter to it, which the token term cannot follow. "
            "Take the head out of target_modules, or train it as a whole with modules_to_save. Under tied embeddings "
            "trainable_token_indices of the embeddings are an adapter of the head, too."
        )
    weight = getattr(head, "weight", None)
    if weight is None or not weight.is_floating_point() or len(shape_of(weight)) != 2:
        raise ValueError(
            f"The model's output embeddings are {type(head).__name__}; the token term needs a linear layer with a "
            "floating-point weight. Leave the head out of the quantisation."
        )
    return head


def shape_of(weight: Tensor) -> tuple[int, ...]:
    """Of the whole weight, where ZeRO-3 keeps a part of it on each rank."""
    return tuple(getattr(weight, "ds_shape", weight.shape))


@contextmanager
def whole(*parameters: Any) -> Iterator[None]:
    """Inside, ZeRO-3's parameters are whole; a collective call on every rank. Other parameters stay as they are."""
    split = [one for one in parameters if one is not None and hasattr(one, "ds_id")]
    if split:
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters, ZeroParamStatus

        # One that is whole already must not be split on exit: its own module still counts on it (tied embeddings).
        split = [one for one in split if one.ds_status != ZeroParamStatus.AVAILABLE]
    if not split:
        yield
        return
    with GatheredParameters(split):
        yield


def plain(parameter: Tensor | None) -> Tensor | None:
    """A parameter that FSDP2 still keeps in parts inside the model's forward, gathered; a collective call.

    Raises:
        RuntimeError: it is trained, and its gradient would not find the way back.
    """
    if not isinstance(parameter, DTensor):
        return parameter
    if parameter.requires_grad:
        raise RuntimeError(
            "FSDP2 shards the head as a module of its own, and it is trained: the token term cannot reach its weight. "
            "Leave the head out of fsdp_transformer_layer_cls_to_wrap, so that it belongs to the model's root."
        )
    return parameter.full_tensor()


def check_logits(model: nn.Module) -> None:
    """Refuse a model whose logits are not the transformed output of its head; runs four tokens through it.

    Raises:
        ValueError: they differ.
    """
    inner = unwrap(model)
    head, transform = head_of(model), transform_of(model)
    ids = torch.arange(4, device=inner.get_input_embeddings().weight.device)[None]
    hidden: list[Tensor] = []
    handle = hook_hidden_states(model, hidden.append)
    modes = {module: module.training for module in inner.modules()}
    inner.eval()
    try:
        with torch.no_grad():
            expected = inner(input_ids=ids, use_cache=False).logits.float()
            found, _ = transform(head(hidden[-1].to(head.weight.device)))
    finally:
        handle.remove()
        for module, mode in modes.items():
            module.training = mode
    if not torch.allclose(found.to(expected.device), expected, rtol=0.02, atol=0.02 * float(expected.abs().max())):
        raise ValueError(
            f"{type(inner).__name__} does more to its logits than the token term knows (scale {transform.scale}, soft "
            f"cap {transform.softcap}): they differ by up to {float((found - expected).abs().max()):.3g} on a test."
        )
