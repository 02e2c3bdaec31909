"""Which target features a data set fires, and how coverage grows with the number of examples."""

# E examples, K dictionary size, T targets, B budgets

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..artefacts import COVERAGE_CURVES
from ..discovery.firing import FiringSets
from .redundancy import Redundancy

DRAWS = 200


@dataclass(frozen=True, eq=False)
class TargetCoverage:
    """How often a data set fires each target feature.

    Args:
        targets: `(T,)` indices of features, rising.
        counts: `(T,)` number of examples that fire each target.
        examples: number of examples in the data set.
    """

    targets: np.ndarray
    counts: np.ndarray
    examples: int

    @property
    def share(self) -> float:
        """Cov(D): the share of targets that at least one example fires (Eq. 23)."""
        return float((self.counts > 0).mean())

    @property
    def missing(self) -> np.ndarray:
        """The targets that no example fires (Eq. 20)."""
        found: np.ndarray = self.targets[self.counts == 0]
        return found

    def weak(self, least: int) -> np.ndarray:
        """The targets that some examples fire, but fewer than `least`."""
        found: np.ndarray = self.targets[(self.counts > 0) & (self.counts < least)]
        return found


@dataclass(frozen=True, eq=False)
class CoverageCurve:
    """The share of targets that n random examples of a data set fire, on top of what is already covered.

    Args:
        budgets: `(B,)` numbers n of examples, from 0 to the size of the data set.
        expected: `(B,)` mean over all draws of n examples without replacement.
        low, high: `(B,)` what 95% of single draws lie between. At the size of the data set there is only one draw.
    """

    budgets: np.ndarray
    expected: np.ndarray
    low: np.ndarray
    high: np.ndarray


def target_coverage(firing: FiringSets, targets: Sequence[int]) -> TargetCoverage:
    """Count the examples on which each target feature fires.

    Args:
        firing: `collect_firing(…)[layer]` of the data set.
        targets: indices of the features that the data set should fire.

    Returns:
        The counts, with the missing and the weakly covered targets.

    Raises:
        ValueError: no targets, or one that the dictionary does not have.

    Example:
        >>> found = target_coverage(FiringSets.of([[0, 1], [1]], d_sae=4), [1, 2, 3])
        >>> round(found.share, 2), found.missing.tolist(), found.weak(3).tolist()
        (0.33, [2, 3], [1])

    Source: arXiv:2605.11887, section 6, Eq. 18, 20 and 23.
    """
    wanted = np.unique(np.asarray(list(targets), dtype=np.int64))
    if not len(wanted):
        raise ValueError("There are no targets: coverage needs at least one feature.")
    if wanted[0] < 0 or wanted[-1] >= firing.d_sae:
        raise ValueError(
            f"The targets hold feature {wanted[-1] if wanted[0] >= 0 else wanted[0]}; the dictionary has features 0 to "
            f"{firing.d_sae - 1}."
        )
    return TargetCoverage(wanted, firing.counts()[wanted], len(firing))


def coverage_curve(
    firing: FiringSets,
    targets: Sequence[int],
    *,
    covered: Sequence[int] = (),
    points: int = 40,
    budgets: Sequence[int] = (),
    draws: int = DRAWS,
    seed: int = 0,
) -> CoverageCurve:
    """Compute how the coverage of the targets grows with examples drawn at random from a data set.

    To compare data sets at an equal budget, give it as one of `budgets`, and compare with `coverage_at`.

    Args:
        firing: `collect_firing(…)[layer]` of the data set that is drawn from.
        targets: indices of the target features.
        covered: targets that other data, such as the seed set, fire already. The curve starts at their share.
        points: number of budgets, spread evenly from 0 to the size of the data set.
        budgets: further numbers of examples that the curve holds. Those above the size of the data set are left out.
        draws: number of random draws for the band.
        seed: of the draws.

    Returns:
        The curve. Its mean is in closed form: a feature that fires on m of N examples fires on none of n with
        probability C(N − m, n) / C(N, n).

    Raises:
        ValueError: as `target_coverage`; no examples; fewer than two points; a budget below 0.

    Example:
        >>> curve = coverage_curve(FiringSets.of([[0], [1]], d_sae=4), [0, 1, 2, 3], covered=[3])
        >>> curve.budgets.tolist(), curve.expected.tolist()
        ([0, 1, 2], [0.25, 0.5, 0.75])

    Source: arXiv:2605.11887, section 6, Eq. 23, as a function of the budget; Eq. 7 for the closed form.
    """
    found = target_coverage(firing, targets)
    if not found.examples or points < 2:
        raise ValueError(f"{found.examples} examples, {points} points: expected at least 1 and 2.")
    if min(budgets, default=0) < 0:
        raise ValueError(f"budgets={list(budgets)}: expected numbers of examples of at least 0.")
    new_T = ~np.isin(found.targets, np.asarray(list(covered), dtype=np.int64))
    spread = np.linspace(0, found.examples, points).round().astype(np.int64)
    further = [budget for budget in budgets if budget <= found.examples]
    budgets_B = np.unique(np.concatenate([spread, np.asarray(further, dtype=np.int64)]))
    start = 1 - new_T.sum() / len(new_T)
    of_new = Redundancy(found.counts[new_T], found.examples)
    grown = np.zeros(found.examples + 1)
    if of_new.features:
        grown[1:] = of_new.coverage * of_new.features / len(new_T)
    rows = _fired_at(firing, found.targets[new_T], draws, seed)
    shares = start + np.array([[np.searchsorted(row, n) for n in budgets_B] for row in rows]) / len(new_T)
    low, high = np.quantile(shares, [0.025, 0.975], axis=0)
    return CoverageCurve(budgets_B, start + grown[budgets_B], low, high)


def _fired_at(firing: FiringSets, targets: np.ndarray, draws: int, seed: int) -> list[np.ndarray]:
    """For each random order of the examples: the places, rising, at which a target fires for the first time."""
    wanted = np.isin(firing.features, targets)
    example = np.repeat(np.arange(len(firing)), np.diff(firing.offsets))[wanted]
    order = np.argsort(firing.features[wanted], kind="stable")
    feature, example = firing.features[wanted][order], example[order]
    if not len(feature):
        return [np.empty(0, np.int64)] * draws
    starts = np.flatnonzero(np.concatenate([[True], feature[1:] != feature[:-1]]))
    rng = np.random.default_rng(seed)
    return [np.sort(np.minimum.reduceat(rng.permutation(len(firing))[example], starts)) for _ in range(draws)]


def coverage_at(curves: Mapping[str, CoverageCurve], budget: int) -> dict[str, float]:
    """The expected coverage of each data set at one number of examples, which every curve must hold.

    There is no interpolation: coverage grows fast at first, so a straight line between two points of a large data set
    would be far below its curve.

    Args:
        curves: name of each data set → `coverage_curve(…, budgets=[budget])`.
        budget: the number of examples.

    Raises:
        ValueError: the budget is above the size of a data set, or a curve does not hold it.

    Example:
        >>> curve = coverage_curve(FiringSets.of([[0], [1]], d_sae=4), [0, 1], budgets=[1])
        >>> coverage_at({"mine": curve}, 1)
        {'mine': 0.5}
    """
    for name, curve in curves.items():
        if not 0 <= budget <= curve.budgets[-1]:
            raise ValueError(f"{name} has {curve.budgets[-1]} examples; the budget {budget} must not be larger.")
        if budget not in curve.budgets:
            raise ValueError(
                f"The curve of {name} does not hold {budget} examples: give coverage_curve budgets=[{budget}]."
            )
    return {name: float(curve.expected[curve.budgets == budget][0]) for name, curve in curves.items()}


def coverage_to_json(
    curves: Mapping[str, CoverageCurve], *, layer: int, targets: int, covered: int, budget: int
) -> dict[str, Any]:
    """Plain values for JSON, in the form that the report reads.

    Args:
        curves: name of each data set → its curve.
        layer: 0-based decoder block of the targets.
        targets: number of targets.
        covered: number of targets that the seed set fires.
        budget: number of examples at which the data sets are compared.
    """
    lines = {
        name: {part: getattr(curve, part).tolist() for part in ("budgets", "expected", "low", "high")}
        for name, curve in curves.items()
    }
    about = {"layer": layer, "targets": targets, "covered": covered, "budget": budget}
    return {COVERAGE_CURVES: [{**about, "at_budget": coverage_at(curves, budget), "curves": lines}]}
