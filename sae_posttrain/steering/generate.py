"""Steering: add features to the residual of chosen rows while they are generated, in the one batched call.

A steered layer's output becomes `residual + alpha · Σ_f typical_f · direction_f` over its features: with `alpha=1`
each feature adds to the residual once more what it writes there when it fires as strongly as it typically does.
"""

# B batch, R rows named by the caller, S sequence, D model width

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
    """What each layer's features write when they fire as strongly as they typically do: layer → `(D,)`."""
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
    """Steer every `model.generate(...)` inside the block, at the positions it generates and nowhere in its prompts.

    The first generated token is steered too: it is read off the last position of the prompt, so that position is.
    Rows that are not steered come out bit for bit as without steering; those of a mixture of experts, token for
    token. What was compiled runs uncompiled inside the block, since compiled code would leave steering out.

    Args:
        features: a feature set or its path, or layer → `(D,)` direction of your own, added as it is for `alpha=1`.
        alpha: in units of typical strength; negative suppresses. One number, or one for each prompt.
        rows: `(R,)` mask of the prompts to steer (default: all). With beams or `num_return_sequences` a prompt's
            entry counts for all that comes of it; repeat the prompt itself to steer one of several.
        positions: `(B, S)` mask. Instead of `generate`, plain forwards of this shape are steered where it is true,
            gradients included. Over prompts of length P and their answers `positions[:, P - 1 :] = True` gives
            the distribution that `generate` sampled from.

    Raises:
        ValueError: features that do not fit the model; alpha that is not finite; a mask whose length is not the
            number of prompts; a way of generating in which the positions to steer cannot be told.
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
        raise ValueError("There is nothing to steer with: no layer has a feature.")
    width = text_config(model).hidden_size
    for layer, direction_D in directions.items():
        if direction_D.shape != (width,) or not direction_D.isfinite().all():
            raise ValueError(
                f"The direction of layer {layer} has shape {tuple(direction_D.shape)} or values that are not finite; "
                f"the model's residual takes {width} finite numbers."
            )
    return directions


def _strength(alpha: float | Sequence[float] | Tensor, rows: Sequence[bool] | Tensor | None) -> Tensor:
    """Alpha of each row, `(R,)` with zero where not steered; without dimension when it is the same for any batch."""
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
        raise ValueError(f"alpha is for {len(strength)} prompts and rows for {len(mask_R)}; give as many of each.")
    return strength * mask_R


@contextmanager
def _placed(model: nn.Module, delta_R1D: dict[int, Tensor], named: int | None, positions: Tensor) -> Iterator[None]:
    """Steer plain forwards, at given positions."""
    if positions.dtype != torch.bool or positions.ndim != 2:
        raise ValueError(f"positions must be a (rows, positions) mask; got {positions.dtype} {tuple(positions.shape)}.")
    if named not in (None, len(positions)):
        raise ValueError(f"alpha or rows is for {named} rows, positions for {len(positions)}; give as many of each.")

    def add(layer: int, residual_BSD: Tensor) -> Tensor:
        if residual_BSD.shape[:2] != positions.shape:
            raise ValueError(
                f"A forward has shape {tuple(residual_BSD.shape[:2])}, and positions {tuple(positions.shape)}; give a "
                "mask of the batch's own shape (without positions, generate is steered)."
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
        raise ValueError(f"{type(base).__name__} cannot generate; give positions to steer its forwards.")
    adapters = (adapter for module in model.modules() for adapter in getattr(module, "peft_config", {}).values())
    if any(adapter.is_prompt_learning for adapter in adapters):
        raise ValueError("A prompt-learning adapter adds positions of its own to the prompts; steer another kind.")
    generation = _Generation(base, delta_R1D, named)
    handles = [
        *hook_residuals(model, delta_R1D, generation.add),
        decoder(model).register_forward_pre_hook(generation.locate, with_kwargs=True),
    ]
    try:
        # A forward cannot tell a part of a prompt from a whole one, nor a prompt from drafted tokens; the call can.
        with (
            _instead(base, "generate", generation.around(base.generate)),
            _instead(base, "init_continuous_batching", _refuse_continuous_batching),
        ):
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _instead(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Stand in for a method of one object."""
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
    """A `generate` call under way."""

    prompts: int
    length: int
    """Of the prompts, with their padding and whatever a cache brought along."""
    begin: int
    """The first position of the forward under way that is steered."""
    delta_B1D: dict[int, Tensor] = field(default_factory=dict)
    """As each layer takes it: a row for each beam, on the layer's device, in its precision."""


@dataclass
class _Generation:
    """What the hooks of a model know about the `generate` call under way."""

    base: Any
    delta_R1D: dict[int, Tensor]
    named: int | None
    call: _Call | None = None

    def around(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(generate)
        def steered(*args: Any, **kwargs: Any) -> Any:
            if self.call is not None:
                raise ValueError("A steered model cannot be its own assistant, nor heal tokens; generate without.")
            given = {**dict(zip(("inputs", "generation_config"), args, strict=False)), **kwargs}
            prompts, length = _prompt_shape(self.base, given, self.named)
            self.call = _Call(prompts, length, begin=length - 1)
            try:
                return generate(*args, **kwargs)
            finally:
                self.call = None

        return steered

    def locate(self, module: nn.Module, args: Any, inputs: dict[str, Any]) -> None:
        """Before each forward: which of its positions are steered."""
        if self.call is None:
            raise ValueError(
                "This forward belongs to no `generate` call, so which of its positions are generated is unknown; give "
                "`positions` to steer plain forwards."
            )
        cache = inputs.get("cache", inputs.get("past_key_values"))  # transformers 5.24 renamed it
        if cache is None:
            self.call.begin = self.call.length - 1  # without a cache, every forward starts over
        elif self.call.begin:  # asked no longer than the prompt lasts: a static cache's answer waits for the GPU
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
            "The prompts are padded on the right; generate continues the end of a row, so pad on the left."
        )
    if named not in (None, len(prompt_BS)):
        raise ValueError(
            f"alpha or rows is for {named} prompts, and generate was given {len(prompt_BS)}. Give one entry for each "
            "prompt; to steer one of several answers, repeat the prompt instead of setting num_return_sequences."
        )
    configs = (given.get("generation_config"), base.generation_config)
    guidance = [given.get("guidance_scale"), *(getattr(config, "guidance_scale", None) for config in configs)]
    if next((scale for scale in guidance if scale is not None), 1) != 1:
        raise ValueError("guidance_scale runs a second, unprompted forward that cannot be steered; generate without.")
    # A cache that is carried over is part of the prompt: the attention mask covers it.
    return len(prompt_BS), (prompt_BS if mask_BS is None else mask_BS).shape[1]
