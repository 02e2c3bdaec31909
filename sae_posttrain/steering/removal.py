"""Remove features or directions from the residual, and make random directions as a control."""

# B batch, R prompts with a strength of their own, S sequence, F features of one layer, D model width

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..feature_set import FeatureSet
from ..residual import hook_residuals, text_config, unwrap


@contextmanager
def ablate(
    model: nn.Module, features: FeatureSet | str | Path, *, strength: float | Sequence[float] | Tensor = 1.0
) -> Iterator[None]:
    """Subtract from the residual what the features write, in every forward pass inside the block, also for prompts.

    After each layer of the features the residual h becomes `h - strength * sum_f act_f(h) * direction_f`, with
    `act_f(h) = relu(h @ encoder_f + bias_f)`. A feature that does not fire changes nothing. `strength=1` removes
    exactly what the features write, as if the SAE's activations were set to zero; above 1 more is subtracted.

    Args:
        model: the model, which may be wrapped.
        features: the features to ablate: a feature set, or its path.
        strength: one number, or one for each prompt of the batch; 0 changes nothing.

    Raises:
        ValueError: the features belong to a model of another shape, a strength is not finite, or the number of
            strengths is not the number of prompts.

    Example:
        >>> with ablate(model, features):
        ...     model.generate(**prompts)

    Source: arXiv:2605.11887, sections 3.3 and 8.1.
    """
    features = FeatureSet.of(features)
    features.check_model(unwrap(model).config, features.provenance.base_model)
    layers = {one.layer: (one.encoder, one.bias, one.direction) for one in features.layers}
    strength_R = _strengths(strength)

    def edit(layer: int, residual_BSD: Tensor) -> Tensor:
        encoder_FD, bias_F, direction_FD = (tensor.to(residual_BSD.device) for tensor in layers[layer])
        active_BSF = (residual_BSD.float() @ encoder_FD.T + bias_F).relu()
        return (active_BSF @ direction_FD).to(residual_BSD.dtype)

    with _subtracting(model, layers, edit, strength_R):
        yield


@contextmanager
def project_out(
    model: nn.Module, directions: Mapping[int, Tensor], *, strength: float | Sequence[float] | Tensor = 1.0
) -> Iterator[None]:
    """Remove the residual's component along a direction, in every forward pass inside the block, also for prompts.

    After each layer the residual h becomes `h - strength * (h · d) d`, with d the layer's direction scaled to length 1.

    Args:
        model: the model, which may be wrapped.
        directions: layer → `(D,)` direction of any length but 0.
        strength: one number, or one for each prompt of the batch; 0 changes nothing.

    Raises:
        ValueError: a direction has another width, has length 0 or is not finite; a strength is not finite; or the
            number of strengths is not the number of prompts.

    Example:
        >>> with project_out(model, {14: direction}):
        ...     model.generate(**prompts)

    Source: directional ablation, arXiv:2406.11717.
    """
    width = text_config(model).hidden_size
    units: dict[int, Tensor] = {}
    for layer, direction_D in directions.items():
        norm = direction_D.float().norm()
        if direction_D.shape != (width,) or not norm.isfinite() or norm == 0:
            raise ValueError(
                f"The direction of layer {layer} has shape {tuple(direction_D.shape)} and length {float(norm):g}; "
                f"expected {width} finite numbers that are not all 0."
            )
        units[layer] = direction_D.detach().float() / norm
    strength_R = _strengths(strength)

    def edit(layer: int, residual_BSD: Tensor) -> Tensor:
        unit_D = units[layer].to(residual_BSD.device)
        return ((residual_BSD.float() @ unit_D)[..., None] * unit_D).to(residual_BSD.dtype)

    with _subtracting(model, units, edit, strength_R):
        yield


def with_random_directions(features: FeatureSet, seed: int = 0) -> FeatureSet:
    """The same features with random directions of the same lengths: the control for `steer` and `ablate`.

    They fire where the features fire, and as strongly, but write something else.

    Args:
        features: any feature set.
        seed: random seed of the directions, which do not depend on the features.

    Returns:
        A feature set for steering and ablation. Its provenance says `random directions`.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for layer in features.layers:
        drawn_FD = torch.randn(layer.direction.shape, generator=generator)
        lengths_F1 = layer.direction.norm(dim=-1, keepdim=True)
        layers.append(replace(layer, direction=drawn_FD * lengths_F1 / drawn_FD.norm(dim=-1, keepdim=True)))
    return replace(
        features, layers=tuple(layers), provenance=replace(features.provenance, selection="random directions")
    )


def _strengths(strength: float | Sequence[float] | Tensor) -> Tensor:
    """`(R,)` strength of each prompt, or one number for any batch."""
    found = torch.as_tensor(strength).detach().float().cpu()
    if found.ndim > 1 or not found.isfinite().all():
        raise ValueError(f"strength must be one finite number, or one for each prompt; got {strength}.")
    return found


@contextmanager
def _subtracting(
    model: nn.Module, layers: Mapping[int, object], edit: Callable[[int, Tensor], Tensor], strength_R: Tensor
) -> Iterator[None]:
    """Subtract `strength · edit(layer, residual)` after each layer."""

    def subtract(layer: int, residual_BSD: Tensor) -> Tensor | None:
        if not strength_R.any():
            return None
        if strength_R.ndim and len(residual_BSD) != len(strength_R):
            raise ValueError(
                f"strength has {len(strength_R)} entries, but a forward pass has {len(residual_BSD)} rows. Give one "
                "entry for each row of the batch."
            )
        scale_B11 = strength_R.to(residual_BSD).reshape(-1, 1, 1)
        return residual_BSD - scale_B11 * edit(layer, residual_BSD)

    handles = hook_residuals(model, layers, subtract)
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled code would skip the hooks
            yield
    finally:
        for handle in handles:
            handle.remove()
