"""Steering: add features to the residual of chosen rows while `generate` runs, in one batched call.

A steered layer's output becomes `residual + alpha · Σ_f typical_f · direction_f`, a sum over the layer's features. With
`alpha=1` each feature adds what it writes when it fires at its typical strength.
"""

# B batch, R prompts with an alpha of their own, S sequence, D model width

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..feature_set import FeatureSet
from ..residual import decoder, hook_residuals, text_config, unwrap


def typical_contributions(features: FeatureSet) -> dict[int, Tensor]:
    """What each layer's features write when they all fire at their typical strength: layer → `(D,)`."""
    return {layer.layer: layer.typical @ layer.direction for layer in features.layers}


@contextmanager
def steer(
    model: nn.Module,
    features: FeatureSet | str | Path | Mapping[int, Tensor],
    *,
    alpha: float | Sequence[float] | Tensor = 1.0,
    rows: Sequence[bool] | Tensor | None = None,
    positions: Tensor | None = None,
) -> Iterator[None]:
    """Steer every `model.generate(...)` inside the block, at the generated positions but not in the prompts.

    The last position of the prompt is steered too, since the first generated token is predicted there. Rows that are
    not steered are bit for bit the same as without steering; for a mixture-of-experts model, their tokens are the same.
    Compiled models run uncompiled inside the block, since compiled code would skip the hooks.

    Args:
        model: a transformers model, or a wrapper around it.
        features: a feature set or its path. Or a mapping from layer to your own `(D,)` direction, which `alpha=1` adds
            unchanged.
        alpha: in units of typical strength; a negative alpha weakens the features. One number, or one for each prompt.
        rows: `(R,)` mask of the prompts to steer. Default: all. With beams or `num_return_sequences` a prompt's entry
            holds for all of its responses. To steer only one of several responses, repeat the prompt.
        positions: `(B, S)` mask. If it is given, plain forward passes of this shape are steered where it is true,
            instead of `generate`. Gradients flow through. For prompts of length P followed by their responses,
            `positions[:, P - 1 :] = True` gives the distribution that `generate` sampled from.

    Raises:
        ValueError: the features do not fit the model, alpha is not finite, a mask's length is not the number of
            prompts, or the generation mode hides which positions are generated.

    Example:
        >>> prompts = tokenizer(["the cat", "the dog"], return_tensors="pt")
        >>> with steer(model, features, alpha=4.0, rows=[True, False]):
        ...     generated = model.generate(**prompts, max_new_tokens=64)

    Source: arXiv:2605.11887, section 8.
    """
    directions = _directions(model, features)
    strength = _strength(alpha, rows)
    delta_R1D = {layer: strength.reshape(-1, 1, 1) * direction_D for layer, direction_D in directions.items()}
    named = len(strength) if strength.ndim else None
    steering = _generated(model, delta_R1D, named) if positions is None else _placed(model, delta_R1D, named, positions)
    with steering, torch.compiler.set_stance("force_eager"):
        yield


def _directions(model: nn.Module, features: FeatureSet | str | Path | Mapping[int, Tensor]) -> dict[int, Tensor]:
    if not isinstance(features, Mapping):
        features = FeatureSet.of(features)
        features.check_model(unwrap(model).config)
        directions = typical_contributions(features)
    else:
        directions = {layer: torch.as_tensor(direction).detach() for layer, direction in features.items()}
    directions = {layer: direction_D.float().cpu() for layer, direction_D in directions.items()}
    if not directions:
        raise ValueError("There is nothing to steer with: no layer has a feature. Give at least one.")
    width = text_config(model).hidden_size
    for layer, direction_D in directions.items():
        if direction_D.shape != (width,) or not direction_D.isfinite().all():
            raise ValueError(
                f"The direction of layer {layer} has shape {tuple(direction_D.shape)} or values that are not finite; "
                f"expected {width} finite numbers, the width of the model's residual."
            )
    return directions


def _strength(alpha: float | Sequence[float] | Tensor, rows: Sequence[bool] | Tensor | None) -> Tensor:
    """`(R,)` alpha of each row, zero where a row is not steered. A scalar if it is the same for every row."""
    strength = torch.as_tensor(alpha).detach().float().cpu()
    if strength.ndim > 1 or not strength.isfinite().all():
        raise ValueError(f"alpha must be one finite number, or one for each prompt; got {alpha}.")
    if rows is None:
        return strength
    mask_R = torch.as_tensor(rows).cpu()
    if mask_R.dtype != torch.bool or mask_R.ndim != 1:
        raise ValueError(
            f"rows must be a mask, true or false for each prompt; got {mask_R.dtype} of shape {tuple(mask_R.shape)}."
        )
    if strength.ndim and len(strength) != len(mask_R):
        raise ValueError(
            f"alpha has {len(strength)} entries and rows has {len(mask_R)}; both need one entry per prompt."
        )
    return strength * mask_R


@contextmanager
def _placed(model: nn.Module, delta_R1D: dict[int, Tensor], named: int | None, positions: Tensor) -> Iterator[None]:
    """Steer plain forward passes at the given positions."""
    if positions.dtype != torch.bool or positions.ndim != 2:
        raise ValueError(f"positions must be a (rows, positions) mask; got {positions.dtype} {tuple(positions.shape)}.")
    if named not in (None, len(positions)):
        raise ValueError(
            f"alpha or rows has {named} entries and positions has {len(positions)} rows; both need one per row."
        )

    def add(layer: int, residual_BSD: Tensor) -> Tensor:
        if residual_BSD.shape[:2] != positions.shape:
            raise ValueError(
                f"A forward pass has shape {tuple(residual_BSD.shape[:2])}, but positions has shape "
                f"{tuple(positions.shape)}. Give a mask of the batch's shape, or leave positions out to steer generate."
            )
        return residual_BSD + positions.to(residual_BSD.device)[:, :, None] * delta_R1D[layer].to(residual_BSD)

    handles = hook_residuals(model, delta_R1D, add)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _generated(model: nn.Module, delta_R1D: dict[int, Tensor], named: int | None) -> Iterator[None]:
    """Steer `generate`, from the last position of the prompt on."""
    base = unwrap(model)
    if not hasattr(base, "generate"):
        raise ValueError(f"{type(base).__name__} has no generate method; give positions to steer its forward passes.")
    adapters = (adapter for module in model.modules() for adapter in getattr(module, "peft_config", {}).values())
    if any(adapter.is_prompt_learning for adapter in adapters):
        raise ValueError(
            "A prompt-learning adapter adds its own positions to the prompts, so steering cannot tell which positions "
            "are generated. Use another kind of adapter, such as LoRA."
        )
    generation = _Generation(base, delta_R1D, named)
    handles = [
        *hook_residuals(model, delta_R1D, generation.add),
        decoder(model).register_forward_pre_hook(generation.locate, with_kwargs=True),
    ]
    try:
        # A forward pass does not show whether its tokens are a whole prompt, part of one, or drafted tokens. The
        # `generate` call does.
        with (
            replaced(base, "generate", generation.around(base.generate)),
            replaced(base, "init_continuous_batching", _refuse_continuous_batching),
        ):
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Replace a method of one object inside the block."""
    own = vars(owner).get(name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        delattr(owner, name)
        if own is not None:
            setattr(owner, name, own)


def _refuse_continuous_batching(*args: Any, **kwargs: Any) -> Any:
    raise ValueError("Continuous batching mixes rows and prompts in one forward; steer `generate` without it.")


@dataclass
class _Call:
    """A `generate` call that is running."""

    prompts: int
    length: int
    """Length of the prompts, with their padding and the tokens that a given cache already holds."""
    begin: int
    """The first steered position of the current forward pass."""
    delta_B1D: dict[int, Tensor] = field(default_factory=dict)
    """Layer → what is added: one row per beam, on the layer's device, in its dtype."""


@dataclass
class _Generation:
    """What the model's hooks know about the running `generate` call."""

    base: Any
    delta_R1D: dict[int, Tensor]
    named: int | None
    call: _Call | None = None

    def around(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(generate)
        def steered(*args: Any, **kwargs: Any) -> Any:
            if self.call is not None:
                raise ValueError(
                    "generate called itself on the steered model, as self-assisted decoding and token healing do. "
                    "Steering does not support these; turn them off."
                )
            given = {**dict(zip(("inputs", "generation_config"), args, strict=False)), **kwargs}
            prompts, length = _prompt_shape(self.base, given, self.named)
            self.call = _Call(prompts, length, begin=length - 1)
            try:
                return generate(*args, **kwargs)
            finally:
                self.call = None

        return steered

    def locate(self, module: nn.Module, args: Any, inputs: dict[str, Any]) -> None:
        """Before each forward pass: find which of its positions are steered."""
        if self.call is None:
            raise ValueError(
                "This forward pass belongs to no `generate` call, so it is unknown which of its positions are "
                "generated. Give `positions` to steer plain forward passes."
            )
        cache = inputs.get("cache", inputs.get("past_key_values"))  # transformers 5.24 renamed it
        if cache is None:
            self.call.begin = self.call.length - 1  # without a cache, every forward pass reads the prompt again
        elif self.call.begin:  # only while the prompt is read: the length of a static cache costs a host–device sync
            self.call.begin = max(0, self.call.length - 1 - int(cache.get_seq_length()))

    def add(self, layer: int, residual_BSD: Tensor) -> Tensor | None:
        """After each steered block."""
        assert self.call is not None
        begin, delta_B1D = self.call.begin, self.call.delta_B1D
        if begin >= residual_BSD.shape[1]:
            return None
        if layer not in delta_B1D:
            copies = 1 if self.named is None else len(residual_BSD) // self.call.prompts
            delta_B1D[layer] = self.delta_R1D[layer].repeat_interleave(copies, dim=0).to(residual_BSD)
        if begin == 0:
            return residual_BSD + delta_B1D[layer]
        return torch.cat([residual_BSD[:, :begin], residual_BSD[:, begin:] + delta_B1D[layer]], dim=1)


def _prompt_shape(base: Any, given: Mapping[str, Any], named: int | None) -> tuple[int, int]:
    """How many prompts a `generate` call was given, and how long they are."""
    found = (given.get(name) for name in ("inputs_embeds", "input_ids", "inputs"))
    prompt_BS = next((prompt for prompt in found if prompt is not None), torch.empty(1, 1))
    mask_BS = given.get("attention_mask")
    if mask_BS is not None and not mask_BS[:, -1].all():
        raise ValueError(
            "The prompts are padded on the right, but generate continues from the end of a row. Pad on the left."
        )
    if named not in (None, len(prompt_BS)):
        raise ValueError(
            f"alpha or rows has {named} entries, but generate was given {len(prompt_BS)} prompts. Give one entry for "
            "each prompt. To steer one of several responses, repeat the prompt instead of setting num_return_sequences."
        )
    configs = (given.get("generation_config"), base.generation_config)
    guidance = [given.get("guidance_scale"), *(getattr(config, "guidance_scale", None) for config in configs)]
    if next((scale for scale in guidance if scale is not None), 1) != 1:
        raise ValueError(
            "guidance_scale runs a second forward pass without the prompt, which cannot be steered. Generate without "
            "guidance_scale."
        )
    # The tokens of a given cache are part of the prompt: the attention mask covers them.
    return len(prompt_BS), (prompt_BS if mask_BS is None else mask_BS).shape[1]
