"""The language-model head: how logits are computed from the decoder's final hidden state."""

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
    """The function that a model applies to the head's output: `softcap · tanh(scale · output / softcap)`.

    Args:
        scale: Cohere's `logit_scale`, Granite's `1 / logits_scaling`, Falcon-H1's `lm_head_multiplier`.
        softcap: Gemma's `final_logit_softcapping`; None if there is no soft cap.
    """

    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits in float32, and their derivative with respect to the output; None if the derivative is constant."""
        logits = output.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is None:
            return logits, None
        bounded = torch.tanh(logits / self.softcap)
        return bounded * self.softcap, 1 - bounded.square()


def transform_of(model: nn.Module) -> LogitTransform:
    """Read the transform from the model's configuration."""
    config = text_config(model)
    scale = next((value for name in _MULTIPLIERS if (value := getattr(config, name, None)) is not None), None)
    divisor = getattr(config, "logits_scaling", None)
    if scale is None and divisor is not None:
        scale = divisor if config.model_type == "hyperclovax" else 1 / divisor
    softcap = getattr(config, "final_logit_softcapping", None)
    return LogitTransform(1.0 if scale is None else float(scale), softcap)


def head_of(model: nn.Module) -> Any:
    """The linear layer from the hidden state to the vocabulary, without wrappers. It is looked up in each forward.

    Raises:
        ValueError: there is no such layer, or an adapter changes its output.
    """
    head = unwrap(model).get_output_embeddings()
    if hasattr(head, "modules_to_save"):  # PEFT trains a copy in place of the original
        (adapter,) = head.active_adapters
        head = head.modules_to_save[adapter]
    if hasattr(head, "base_layer") or hasattr(head, "token_adapter"):
        raise ValueError(
            f"The head is a {type(head).__name__}: PEFT adds an adapter to it, which the token term cannot follow. "
            "Take the head out of target_modules, or train it as a whole with modules_to_save. With tied embeddings, "
            "trainable_token_indices of the embeddings also adapt the head."
        )
    weight = getattr(head, "weight", None)
    if weight is None or not weight.is_floating_point() or len(shape_of(weight)) != 2:
        raise ValueError(
            f"The model's output embeddings are {type(head).__name__}; the token term needs a linear layer with a "
            "floating-point weight. Leave the head out of the quantisation."
        )
    return head


def shape_of(weight: Tensor) -> tuple[int, ...]:
    """The shape of the whole weight, also if ZeRO-3 keeps only a part of it on each rank."""
    return tuple(getattr(weight, "ds_shape", weight.shape))


@contextmanager
def whole(*parameters: Any) -> Iterator[None]:
    """Gather ZeRO-3 parameters inside the block. This is a collective call on every rank. Others are not changed."""
    split = [one for one in parameters if one is not None and hasattr(one, "ds_id")]
    if split:
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters, ZeroParamStatus

        # A parameter that is already whole must not be split on exit: its module still needs it (tied embeddings).
        split = [one for one in split if one.ds_status != ZeroParamStatus.AVAILABLE]
    if not split:
        yield
        return
    with GatheredParameters(split):
        yield


def plain(parameter: Tensor | None) -> Tensor | None:
    """Gather a parameter that FSDP2 keeps sharded even inside the model's forward. This is a collective call.

    Raises:
        RuntimeError: the parameter is trained, and its gradient would not reach the shards.
    """
    if not isinstance(parameter, DTensor):
        return parameter
    if parameter.requires_grad:
        raise RuntimeError(
            "FSDP2 shards the head as a module of its own, and it is trained, so the token term cannot use its weight. "
            "Leave the head out of fsdp_transformer_layer_cls_to_wrap, so that it belongs to the model's root module."
        )
    return parameter.full_tensor()


def check_logits(model: nn.Module) -> None:
    """Refuse a model whose logits are not the transformed output of its head. Four tokens are run to compare them.

    Raises:
        ValueError: the logits differ.
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
            f"cap {transform.softcap}): on a test input they differ by {float((found - expected).abs().max()):.3g}. "
            "Use the feature term instead."
        )
