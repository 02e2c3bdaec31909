"""What a request says about its steering: the same names for transformers, for vLLM and for its server."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ALPHA = "steering_alpha"
FEATURES_ID = "steering_features"
"""Names the features that a request asks for, by `features_id`."""
LAYERS = "steering_layers"
"""Decoder blocks to steer in, as text such as `3,5`, since servers take no lists of numbers everywhere."""
TOP = "steering_top"


@dataclass(frozen=True)
class Steering:
    """How one response is steered.

    Args:
        alpha: in units of typical strength; 0 steers nothing.
        layers: decoder blocks to steer in. Default: all of the feature set.
        top: features per target and layer, the first ones. Default: all.
        features: the `features_id` of the features. Default: those that the engine has.
    """

    alpha: float = 0.0
    layers: tuple[int, ...] | None = None
    top: int | None = None
    features: str | None = None

    def extra_args(self) -> dict[str, Any]:
        """The `extra_args` of a request that is steered so."""
        layers = None if self.layers is None else ",".join(map(str, self.layers))
        given = {ALPHA: self.alpha, LAYERS: layers, TOP: self.top, FEATURES_ID: self.features}
        return {name: value for name, value in given.items() if value is not None}

    @classmethod
    def of(cls, extra_args: Mapping[str, Any] | None) -> Steering:
        """What a request's `extra_args` say.

        Raises:
            ValueError: a value has another form.

        Example:
            >>> Steering.of({"steering_alpha": 2.0, "steering_layers": "3,5"})
            Steering(alpha=2.0, layers=(3, 5), top=None, features=None)
        """
        given = extra_args or {}
        alpha, layers, top = given.get(ALPHA, 0.0), given.get(LAYERS), given.get(TOP)
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
            raise ValueError(f"{ALPHA} must be a finite number, got {alpha!r}.")
        if top is not None and (isinstance(top, bool) or not isinstance(top, int) or top < 1):
            raise ValueError(f"{TOP} must be a number of features, at least 1, got {top!r}.")
        if layers is not None and not (isinstance(layers, str) and all(one.isdecimal() for one in layers.split(","))):
            raise ValueError(f"{LAYERS} must be numbers of decoder blocks such as '3,5', got {layers!r}.")
        chosen = None if layers is None else tuple(map(int, layers.split(",")))
        return cls(float(alpha), chosen, top, given.get(FEATURES_ID))
