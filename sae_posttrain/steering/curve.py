"""The effect of steering at each strength, and the choice of a strength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..artefacts import TARGET_RATE
from ..feature_set import FeatureSet
from ..metrics.share import Share
from ..sampling import Response
from ..wording import counted


@dataclass(frozen=True)
class Point:
    """The effect of one steering strength, at some layers, on sampled responses.

    Args:
        layers: the steered layers; empty for unsteered responses.
        alpha: strength, in units of typical strength.
        loops: the share of responses that end in an endless loop, with a 95% interval.
        perplexity: per token under the unsteered model, of the looped responses up to where they first repeat.
        plain_perplexity: the same for the unsteered responses to the same prompts, over the same number of tokens.
        top: number of features per layer; None means all features of the set.
        temperature: sampling temperature.
        tokens: mean length of the responses, in tokens.
        ended: number of responses that the model ended itself; the others were cut at the token limit.
    """

    layers: tuple[int, ...]
    alpha: float
    loops: Share
    perplexity: float | None = None
    plain_perplexity: float | None = None
    top: int | None = None
    temperature: float = 1.0
    tokens: float = 0.0
    ended: int = 0

    @property
    def rate(self) -> float:
        return self.loops.rate

    @property
    def ratio(self) -> float | None:
        """Perplexity of the text before the loop, divided by the unsteered perplexity; None if nothing loops."""
        if self.perplexity is None or self.plain_perplexity is None:
            return None
        return self.perplexity / self.plain_perplexity

    @property
    def curve(self) -> tuple[tuple[int, ...], int | None, float]:
        """The layers, `top` and temperature. Points of one curve share these and differ only in alpha."""
        return self.layers, self.top, self.temperature

    def reaches(self, target_rate: float, max_ratio: float) -> bool:
        return self.rate >= target_rate and self.ratio is not None and self.ratio <= max_ratio

    def __str__(self) -> str:
        features = "" if self.top is None else f" with {counted(self.top, 'feature')} per layer"
        return f"alpha {self.alpha:g} of {layers_named(self.layers)}{features} at temperature {self.temperature:g}"


@dataclass(frozen=True)
class SteeredAnswer:
    """One response of a calibration, and the steering it was sampled with. `prompt` is the prompt's index."""

    prompt: int
    layers: tuple[int, ...]
    top: int | None
    temperature: float
    alpha: float
    looped: bool
    response: Response


@dataclass(frozen=True)
class Calibration:
    """The measured curves of a calibration, and the strength they recommend.

    Args:
        features: the feature set used for steering, unchanged.
        plain: the result without steering. Its `plain_perplexity` covers all text that does not repeat itself.
        points: for each layer alone and for all layers, each number of features and each temperature, by rising alpha.
        target_rate: the share of responses that should loop, from 0 to 1.
        max_ratio: largest perplexity allowed for the text before the loop, as a multiple of the unsteered one.
        other_plain: the results without steering at the other temperatures.
        answers: every sampled response, including the unsteered ones.

    Example:
        >>> calibration = calibrate(model, tokenizer, features, prompts, alphas=[1.0, 2.0, 4.0])
        >>> print(calibration.verdict())
        >>> if calibration.reached:
        ...     calibration.calibrated().save("features.safetensors")

    Source: arXiv:2605.11887, section 8, for the steering; the criteria are ours.
    """

    features: FeatureSet
    plain: Point
    points: tuple[Point, ...]
    target_rate: float
    max_ratio: float
    other_plain: tuple[Point, ...] = ()
    answers: tuple[SteeredAnswer, ...] = field(default=(), repr=False)

    def plain_of(self, point: Point) -> Point:
        """The result without steering at a point's temperature."""
        found = (plain for plain in self.other_plain if plain.temperature == point.temperature)
        return next(found, self.plain)

    @property
    def best(self) -> Point | None:
        """The point to steer at; None if nothing loops more than without steering.

        - If points reach the target within the perplexity bound: the smallest such alpha of each curve, and of these
          the one with the lowest perplexity.
        - Else the point within the bound at which most responses loop. Points whose interval lies above the rate
          without steering go first.
        - If no point is within the bound: the one with the lowest perplexity. Again, points whose interval lies above
          the rate without steering go first.
        """
        smallest: dict[Any, Point] = {}
        for point in self.points:
            if point.reaches(self.target_rate, self.max_ratio):
                smallest.setdefault(point.curve, point)
        if smallest:
            return min(smallest.values(), key=lambda point: (_fluency(point), point.alpha, point.layers))
        looping = [point for point in self.points if point.rate > self.plain_of(point).rate]
        fluent = [point for point in looping if _fluency(point) <= self.max_ratio]
        if fluent:
            return max(self._sure(fluent) or fluent, key=lambda point: (point.rate, -_fluency(point), -point.alpha))
        return min(self._sure(looping) or looping, key=lambda point: (_fluency(point), point.alpha), default=None)

    def _sure(self, points: Sequence[Point]) -> list[Point]:
        """The points whose interval lies above the rate without steering."""
        return [point for point in points if point.loops.low > self.plain_of(point).rate]

    @property
    def reached(self) -> bool:
        """Whether the best point reaches the target and stays within the bound."""
        return self.best is not None and self.best.reaches(self.target_rate, self.max_ratio)

    def calibrated(self) -> FeatureSet:
        """The features of the best point, with its alpha.

        Raises:
            ValueError: nothing loops more than without steering.
        """
        best = self.best
        if best is None:
            raise ValueError(self.verdict())
        return replace(self.features.select(layers=best.layers, top=best.top), alpha=best.alpha)

    def verdict(self) -> str:
        """What the best point reaches, and what to try if that is below the target."""
        best = self.best
        if best is None:
            rate = max(self.plain_of(point).rate for point in self.points)
            peak = max(self.points, key=lambda point: point.rate)
            return (
                f"Nothing loops more than without steering ({rate:.0%}). {self._beyond(peak)} Check whether the model "
                "loops at all: give it some periods of a loop as the prompt."
            )
        reached = (
            f"Best is {best}: {best.rate:.0%} of the responses loop ({self.plain_of(best).rate:.0%} without steering), "
            f"and the text before has {_fluency(best):.2f} times the unsteered perplexity."
        )
        if self.reached:
            return reached
        parts = [reached, f"The target was {self.target_rate:.0%} at no more than {self.max_ratio:g} times."]
        if not self._sure([best]):
            parts.append("With so few responses this may be chance; give more prompts.")
        less_fluent = [point for point in self._sure(self.points) if point.rate > best.rate]
        if less_fluent:
            next_one = min(less_fluent, key=_fluency)
            parts.append(
                f"At {_fluency(next_one):.2f} times, {next_one} makes {next_one.rate:.0%} loop; a higher max_ratio "
                "allows it."
            )
        return " ".join([*parts, self._beyond(best)])

    def _beyond(self, point: Point) -> str:
        """Whether alphas above those of a point's curve may make more responses loop."""
        curve = [one for one in self.points if one.curve == point.curve]
        peak, last = max(curve, key=lambda one: one.rate), curve[-1]
        if last.rate < peak.rate:
            return (
                f"Above alpha {peak.alpha:g} fewer responses loop, so larger ones do not help. Try a lower "
                "temperature, "
                "other layers, another number of features, or alphas in between."
            )
        if last.ratio is not None and last.ratio > self.max_ratio:
            return (
                f"At alpha {last.alpha:g} the text is no longer fluent, so larger ones do not help. Try a lower "
                "temperature, other layers, another number of features, or alphas in between."
            )
        return f"The share has not fallen up to alpha {last.alpha:g}. Try larger ones, other layers or more features."

    def table(self) -> str:
        """One line without steering and one for every point; the best point is marked."""
        header = ["layers", "features", "T", "alpha", "looped", "rate %", "95% interval", "tokens", "ended %"]
        header += ["perplexity", "unsteered", "ratio", ""]
        lines = (self.plain, *self.other_plain, *self.points)
        rows = [header, *(_cells(point, point == self.best) for point in lines)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the responses."""

        def values(point: Point | None) -> dict[str, Any] | None:
            if point is None:
                return None
            measured = {name: value for name, value in asdict(point).items() if name != "loops"}
            return {**measured, **point.loops.to_dict("looped"), "ratio": point.ratio}

        return {
            TARGET_RATE: self.target_rate,
            "max_ratio": self.max_ratio,
            "reached": self.reached,
            "verdict": self.verdict(),
            "best": values(self.best),
            "plain": values(self.plain),
            "other_plain": [values(point) for point in self.other_plain],
            "points": [values(point) for point in self.points],
        }


def layers_named(layers: Sequence[int]) -> str:
    return f"layer {layers[0]}" if len(layers) == 1 else f"layers {' '.join(map(str, layers))}"


def _fluency(point: Point) -> float:
    return float("inf") if point.ratio is None else point.ratio


def _cells(point: Point, is_best: bool) -> list[str]:
    perplexities = (point.perplexity, point.plain_perplexity, point.ratio)
    return [
        "+".join(map(str, point.layers)) or "none",
        "all" if point.top is None and point.layers else str(point.top or "-"),
        f"{point.temperature:g}",
        f"{point.alpha:g}",
        f"{point.loops.hits}/{point.loops.total}",
        f"{100 * point.rate:.1f}",
        f"{100 * point.loops.low:.1f} to {100 * point.loops.high:.1f}",
        f"{point.tokens:.0f}",
        f"{100 * point.ended / point.loops.total:.0f}",
        *("-" if value is None else f"{value:.2f}" for value in perplexities),
        "<- best" if is_best else "",
    ]
