"""What steering does at each strength, and the strength to choose."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from ..feature_set import FeatureSet


@dataclass(frozen=True)
class Point:
    """What one strength of steering, at some layers, does to sampled responses.

    Args:
        looped: how many of `total` responses end in a loop.
        low: of the 95% interval of their share, as is `high`.
        perplexity: per token under the unsteered model, of the looped responses up to where they first repeat.
        plain_perplexity: that of the unsteered responses to the same prompts, over as many tokens.
    """

    layers: tuple[int, ...]
    alpha: float
    looped: int
    total: int
    low: float
    high: float
    perplexity: float | None = None
    plain_perplexity: float | None = None

    @property
    def rate(self) -> float:
        return self.looped / self.total

    @property
    def ratio(self) -> float | None:
        """How much less fluent steering makes the text before the loop; None where nothing loops."""
        if self.perplexity is None or self.plain_perplexity is None:
            return None
        return self.perplexity / self.plain_perplexity

    def reaches(self, target_rate: float, max_ratio: float) -> bool:
        return self.rate >= target_rate and self.ratio is not None and self.ratio <= max_ratio


@dataclass(frozen=True)
class Calibration:
    """The measured curve, and what it says about the features.

    Args:
        features: those that were steered with, as they were.
        plain: what happens without steering; its `plain_perplexity` is over all that does not repeat itself.
        points: for each layer alone and for all together, by rising alpha.
        target_rate: the share of responses that should loop.
        max_ratio: how much higher than the unsteered perplexity that before the loop may be.
    """

    features: FeatureSet
    plain: Point
    points: tuple[Point, ...]
    target_rate: float
    max_ratio: float

    @property
    def best(self) -> Point | None:
        """The smallest alpha that reaches the share fluently, at the layers where that is most fluent, if any."""
        smallest: dict[tuple[int, ...], Point] = {}
        for point in self.points:
            if point.reaches(self.target_rate, self.max_ratio):
                smallest.setdefault(point.layers, point)
        return min(smallest.values(), key=lambda point: (_fluency(point), point.alpha, point.layers), default=None)

    def calibrated(self) -> FeatureSet:
        """The features of the best layers, with their alpha.

        Raises:
            ValueError: no alpha reaches the share while the text before the loop stays fluent.
        """
        best = self.best
        if best is None:
            raise ValueError(self.advice())
        layers = tuple(layer for layer in self.features.layers if layer.layer in best.layers)
        return replace(self.features, layers=layers, alpha=best.alpha)

    def advice(self) -> str:
        """What is missing, and what to try, where no point is the best."""
        looping = [point for point in self.points if point.rate >= self.target_rate]
        if not looping:
            most = max(self.points, key=lambda point: point.rate)
            return (
                f"No alpha makes {self.target_rate:.0%} of the responses loop; most, {most.rate:.0%}, do at alpha "
                f"{most.alpha:g} of {named(most.layers)}. Try larger alphas, other layers or more features, or lower "
                "the target; and check that the model can loop at all: shown some periods of a loop, does it go on?"
            )
        nearest = min(looping, key=_fluency)
        return (
            f"No alpha makes {self.target_rate:.0%} of the responses loop while the text before stays fluent, with at "
            f"most {self.max_ratio:g} times the unsteered perplexity; nearest is alpha {nearest.alpha:g} of "
            f"{named(nearest.layers)}, with {_fluency(nearest):.2f} times. Try alphas in between, other layers or "
            "fewer features, or raise the bound."
        )

    def table(self) -> str:
        """A line for no steering and for every point; the best is marked."""
        header = ["layers", "alpha", "looped", "rate %", "95% interval", "perplexity", "unsteered", "ratio", ""]
        rows = [header, *(_cells(point, point == self.best) for point in (self.plain, *self.points))]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""

        def values(point: Point | None) -> dict[str, Any] | None:
            return None if point is None else {**asdict(point), "rate": point.rate, "ratio": point.ratio}

        return {
            "target_rate": self.target_rate,
            "max_ratio": self.max_ratio,
            "best": values(self.best),
            "plain": values(self.plain),
            "points": [values(point) for point in self.points],
        }


def named(layers: tuple[int, ...]) -> str:
    return f"layer {layers[0]}" if len(layers) == 1 else f"layers {' '.join(map(str, layers))}"


def _fluency(point: Point) -> float:
    assert point.ratio is not None, "something loops at this point"
    return point.ratio


def _cells(point: Point, is_best: bool) -> list[str]:
    perplexities = (point.perplexity, point.plain_perplexity, point.ratio)
    return [
        "+".join(map(str, point.layers)) or "none",
        f"{point.alpha:g}",
        f"{point.looped}/{point.total}",
        f"{100 * point.rate:.1f}",
        f"{100 * point.low:.1f} to {100 * point.high:.1f}",
        *("-" if value is None else f"{value:.2f}" for value in perplexities),
        "<- best" if is_best else "",
    ]
