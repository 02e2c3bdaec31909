"""Check the tensors of a feature set, and find features that are also active outside their target."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from . import Provenance
    from .layer import LayerFeatures

TENSORS = ("encoder", "bias", "direction", "score", "typical")
BY_GROUP = ("baselines", "activations")
OPTIONAL = ("threshold", "disagreement")
"""Tensors that a layer may lack."""
LANGUAGE_SELECTION = "monolinguality"
"""How language features are chosen, as the provenance says it."""
LAST_PERIOD, ORDINARY_TEXT = "last period", "ordinary text"
"""Groups of tokens in which the features of repetition were measured."""
TOO_ACTIVE = 0.5
"""A feature is also active elsewhere if its mean activation there exceeds this share of that on its target."""


def active_elsewhere(layers: Sequence[LayerFeatures], selection: str = LANGUAGE_SELECTION) -> Iterator[str]:
    """A sentence about each feature that is also active where its target is not.

    Args:
        layers: of a feature set.
        selection: how its features were chosen, by its provenance.
    """
    for layer in layers:
        means = {group: values.tolist() for group, values in layer.activations.items()}
        for row, (feature, target) in enumerate(zip(layer.ids, layer.targets, strict=True)):
            repeats = target not in means
            own = LAST_PERIOD if repeats else target
            others = [ORDINARY_TEXT] if repeats else [group for group in means if group != own]
            others = [group for group in others if group in means]
            if own not in means or not others:
                continue
            rival = max(others, key=lambda group: means[group][row])
            if means[rival][row] > TOO_ACTIVE * means[own][row]:
                wrong, advice = f"is not one of {target} alone", f"Suppressing it would hurt {rival}"
                if repeats:
                    wrong, advice = "is not one of repetition alone", "Steering with it may do something else"
                elif selection == LANGUAGE_SELECTION:
                    wrong = "is not monolingual"
                yield (
                    f"Layer {layer.layer} feature {feature} (for {target}) {wrong}: mean activation "
                    f"{means[own][row]:.3f} in {own}, but {means[rival][row]:.3f} in {rival}. {advice}; "
                    "leave it out with `sae-posttrain features select`, or take another layer."
                )


def check_tensors(layers: Sequence[LayerFeatures], provenance: Provenance, alpha: Any, complaint: str) -> None:
    """Check that layers, shapes and numbers can be used in training.

    Args:
        layers: the layers of a feature set.
        provenance: where it came from.
        alpha: its calibrated strength.
        complaint: the beginning of the message.

    Raises:
        ValueError: a layer, a shape or a number is wrong.
    """
    width = provenance.d_model
    numbers = [layer.layer for layer in layers]
    if len(set(numbers)) != len(numbers) or not all(0 <= n < provenance.num_layers for n in numbers):
        raise ValueError(
            f"{complaint}: it has layers {numbers}; expected different layers from 0 to {provenance.num_layers - 1}."
        )
    if alpha is not None and not (isinstance(alpha, int | float) and math.isfinite(alpha)):
        raise ValueError(f"{complaint}: alpha is {alpha!r}; expected a finite number.")
    for layer in layers:
        count = len(layer.ids)
        expected = {"encoder": (count, width), "direction": (count, width), "bias": (count,), "score": (count,)}
        vectors = {name: getattr(layer, name) for name in TENSORS}
        vectors |= {name: getattr(layer, name) for name in OPTIONAL if getattr(layer, name) is not None}
        for name in BY_GROUP:
            vectors |= {f"{name}.{code}": values for code, values in getattr(layer, name).items()}
        for name, values in vectors.items():
            if tuple(values.shape) != expected.get(name, (count,)) or not bool(torch.isfinite(values).all()):
                raise ValueError(
                    f"{complaint}: {name} of layer {layer.layer} has shape {tuple(values.shape)} or values that "
                    f"are not finite; expected finite numbers of shape {expected.get(name, (count,))}."
                )
        if len(layer.targets) != count or not all(math.isfinite(t) and t > 0 for t in layer.typical.tolist()):
            raise ValueError(
                f"{complaint}: layer {layer.layer} needs one target and one positive typical activation per feature."
            )
