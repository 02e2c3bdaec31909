"""How the chosen rollouts are generated: steered along features, or by one of the controls."""

# D model width, R rows, S positions

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ...feature_set import FeatureSet
from ...metrics.loops import LoopSettings
from ...residual import unwrap
from ...steering import steer, typical_contributions
from .early_stop import loops_ended
from .row_temperature import row_temperature
from .settings import UNSTEERED, SteeringSettings


@dataclass(frozen=True)
class Source:
    """How the chosen rollouts are generated.

    Args:
        directions: layer → `(D,)` direction to steer along. If it is empty, nothing is steered.
        alpha: steering strength, in units of the directions.
        temperature: temperature of the chosen rollouts; 0 is greedy. Default: that of the other rollouts.
        stop_at: the loop at which a chosen rollout ends. Default: it ends as other rollouts do.
    """

    directions: Mapping[int, Tensor]
    alpha: float
    temperature: float | None = None
    stop_at: LoopSettings | None = None

    @contextmanager
    def generating(self, model: nn.Module, rows: Sequence[bool]) -> Iterator[Mapping[int, int]]:
        """Sample these rows of the `generate` call inside the block as this source asks.

        Yields:
            row → tokens of its completion, for the rows that were ended in a loop. It is filled while `generate` runs.
        """
        with self._sampled(model, rows):
            if self.stop_at is None or not any(rows):
                yield {}
            else:
                with loops_ended(model, rows, self.stop_at) as lengths:
                    yield lengths

    def _sampled(self, model: nn.Module, rows: Sequence[bool]) -> AbstractContextManager[None]:
        if not any(rows):
            return nullcontext()
        if self.temperature is not None:
            return row_temperature(model, rows, self.temperature)
        if not self.directions:
            return nullcontext()
        return steer(model, self.directions, alpha=self.alpha, rows=rows)

    def scoring(self, model: nn.Module, positions_RS: Tensor) -> AbstractContextManager[None]:
        """Steer these positions of the forwards inside the block."""
        if not self.directions:
            return nullcontext()
        return steer(model, self.directions, alpha=self.alpha, positions=positions_RS)


def features_for(settings: SteeringSettings, features: FeatureSet | str | Path | None) -> FeatureSet | None:
    """The given features, or else those that the settings name; None if the settings need no features.

    Raises:
        ValueError: there are no features, or no strength.
    """
    if settings.steered_per_group == 0 or settings.steering_control in UNSTEERED:
        return None
    if features is None and settings.features is None:
        raise ValueError(
            "No features: set features to a feature set's path, or pass features=…. "
            "steering_control=greedy_rollout needs none."
        )
    found = FeatureSet.of(features if features is not None else str(settings.features))
    _alpha(settings, found)
    return found


def steering_set(settings: SteeringSettings, features: FeatureSet | None, seed: int) -> FeatureSet | None:
    """The features that the chosen rollouts are steered with; for the control `random_direction`, random ones.

    Args:
        settings: the settings of the run.
        features: what `features_for` returned.
        seed: seed of the random directions; the same on every process.
    """
    if features is None or settings.steering_control != "random_direction":
        return features
    directions = random_like(typical_contributions(features), seed)
    one = torch.ones(1)
    layers = [replace(at.take([0]), direction=directions[at.layer][None], typical=one) for at in features.layers]
    return replace(features, layers=tuple(layers))


def source_of(
    settings: SteeringSettings,
    features: FeatureSet | None,
    chosen: FeatureSet | None,
    model: nn.Module,
    name: str | None,
) -> Source:
    """Make the source that the settings choose.

    Args:
        settings: the settings of the run.
        features: what `features_for` returned.
        chosen: what `steering_set` returned.
        model: the model to steer.
        name: the name or folder that the model was loaded from, if known.

    Raises:
        ValueError: the features belong to another model.
    """
    if features is None or chosen is None:
        greedy = settings.steering_control == "greedy_rollout" and settings.steered_per_group > 0
        return Source({}, 0.0, settings.greedy_rollout_temperature if greedy else None, settings.stop_at)
    features.check_model(unwrap(model).config, name)
    return Source(typical_contributions(chosen), _alpha(settings, features), stop_at=settings.stop_at)


def _alpha(settings: SteeringSettings, features: FeatureSet) -> float:
    alpha = features.alpha if settings.steering_alpha is None else settings.steering_alpha
    if alpha is None:
        raise ValueError(
            "No strength: set steering_alpha, in units of the features' typical activation, or find a strength for "
            "these features with `sae-posttrain calibrate`."
        )
    return float(alpha)


def random_like(directions: Mapping[int, Tensor], seed: int) -> dict[int, Tensor]:
    """A random direction of the same norm at each layer.

    Args:
        directions: layer → `(D,)` direction.
        seed: of the random directions, which do not depend on the given ones.

    Returns:
        layer → `(D,)`.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = {layer: torch.randn(direction.shape, generator=generator) for layer, direction in directions.items()}
    return {layer: drawn[layer] * (direction.norm() / drawn[layer].norm()) for layer, direction in directions.items()}
