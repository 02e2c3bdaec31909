"""Compare two runs' expected switch rates on the same prompts: differences by script, with intervals and p-values."""

# C clusters, M means, R resamples; 4: sums and sizes of the run, then sums and sizes of the other run

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .expectation import ANY, MAX_CELLS, RESAMPLES, SHOWN, ExpectedSwitchReport, by_cluster, cluster_order, resampled


@dataclass(frozen=True)
class ExpectedDifference:
    """The difference of the mean probabilities of two runs, on the same answers or prompts.

    Args:
        difference: rate minus `against`. Negative is better.
        low, high: confidence interval of the difference.
        change: the difference as a share of `against`; -0.4 means 40% less. None if `against` is 0.
        change_low, change_high: confidence interval of the change. None if too few prompts contribute to `against`.
        p_value: two-sided probability of a difference at least this large if the runs were equal.
    """

    into: str
    rate: float
    against: float
    difference: float
    low: float
    high: float
    change: float | None
    change_low: float | None
    change_high: float | None
    p_value: float
    prompts: int
    confidence: float


@dataclass(frozen=True)
class ExpectedComparison:
    """The differences between two runs: for any script, and for each script."""

    differences: tuple[ExpectedDifference, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self.differences[0]), "scripts": [asdict(one) for one in self.differences[1:]]}

    def table(self) -> str:
        """One line per script, in percent: both means, and the change with its interval."""
        first = self.differences[0]
        lines = [
            f"against    {'into':<9} {'against %':>11} {'expected %':>11}      change   {first.confidence:.0%} interval"
        ]
        for one in self.differences[: SHOWN + 1]:
            change = "–" if one.change is None else f"{100 * one.change:+.1f}%"
            interval = "–"
            if one.change_low is not None and one.change_high is not None:
                interval = f"{100 * one.change_low:+.1f} to {100 * one.change_high:+.1f}%"
            rates = f"{100 * one.against:>11.4f} {100 * one.rate:>11.4f}"
            lines.append(f"           {one.into:<9} {rates} {change:>11}   {interval}, p = {one.p_value:.2g}")
        lines.append(f"{first.prompts} prompts; change is relative to the other run.")
        return "\n".join(lines)


def compare_expected(
    report: ExpectedSwitchReport, against: ExpectedSwitchReport, *, resamples: int = RESAMPLES, seed: int = 0
) -> ExpectedComparison:
    """Compare two reports on the same prompts, for any script and for each script. `cluster` identifies the prompts.

    Args:
        report: report of the run to judge.
        against: report of the run that it is compared with.
        resamples: number of bootstrap draws, and of random swaps for the p-value.
        seed: random seed of both.

    Returns:
        Differences with bootstrap intervals, which draw whole prompts with both runs' answers to them. The p-value is
        that of a permutation test, which swaps the runs' answers to each prompt at random.

    Raises:
        ValueError: the prompts differ.
    """
    order = cluster_order(report.answers)
    _check_prompts(set(order), {answer.cluster for answer in against.answers})
    codes = sorted({answer.language for answer in report.answers})
    scripts = [script for code, script in against.pairs if code == "all" or [code] == codes]
    names = [("all", ANY), *(("all", script) for script in scripts)]
    runs = [by_cluster(answers, names, order) for answers in (report.answers, against.answers)]
    totals_4CM = np.stack([part for run in runs for part in run])
    rng = np.random.default_rng(seed)
    drawn_R4M = resampled(totals_4CM, resamples, rng)
    p_M = _swapping(totals_4CM, resamples, rng)
    return ExpectedComparison(
        tuple(
            ExpectedDifference(
                into=into,
                **_estimates(totals_4CM[..., place].sum(axis=1), drawn_R4M[..., place], report.confidence),
                p_value=float(p_M[place]),
                prompts=len(order),
                confidence=report.confidence,
            )
            for place, (_, into) in enumerate(names)
        )
    )


def _check_prompts(prompts: set[Any], others: set[Any]) -> None:
    only, missing = prompts - others, others - prompts
    if only or missing:
        raise ValueError(
            f"The runs must have answered the same prompts: {len(only)} are in the first only (such as "
            f"{next(iter(only), None)!r:.80}), {len(missing)} in the second only (such as "
            f"{next(iter(missing), None)!r:.80})."
        )


def _estimates(whole_4: np.ndarray, drawn_R4: np.ndarray, confidence: float) -> dict[str, Any]:
    """The two rates, their difference and their relative change, with intervals."""
    quantiles = [(1 - confidence) / 2, (1 + confidence) / 2]
    rate, other = float(whole_4[0] / whole_4[1]), float(whole_4[2] / whole_4[3])
    drawn_R4 = drawn_R4[(drawn_R4[:, 1] > 0) & (drawn_R4[:, 3] > 0)]
    rate_R, other_R = drawn_R4[:, 0] / drawn_R4[:, 1], drawn_R4[:, 2] / drawn_R4[:, 3]
    low, high = map(float, np.quantile(rate_R - other_R, quantiles))
    change: list[float | None] = [None] * 3
    if other > 0:
        change[0] = rate / other - 1
    if (other_R > 0).all():
        change[1:] = map(float, np.quantile(rate_R / other_R - 1, quantiles))
    names = ("change", "change_low", "change_high")
    estimates = {"rate": rate, "against": other, "difference": rate - other, "low": low, "high": high}
    return {**estimates, **dict(zip(names, change, strict=True))}


def _swapping(totals_4CM: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """`(M,)` share of random swaps, prompt by prompt, whose difference is at least as large as the observed one."""
    turned_4CM = totals_4CM[[2, 3, 0, 1]] - totals_4CM
    whole_4M = totals_4CM.sum(axis=1)
    seen_M = np.abs(whole_4M[0] / whole_4M[1] - whole_4M[2] / whole_4M[3])
    clusters, large_M, done = totals_4CM.shape[1], np.zeros(totals_4CM.shape[2]), 0
    while done < resamples:
        count = min(max(1, MAX_CELLS // clusters), resamples - done)
        swapped_RC = rng.integers(2, size=(count, clusters)).astype(float)
        sums_R4M = whole_4M + np.einsum("rc,xcm->rxm", swapped_RC, turned_4CM, optimize=True)
        made_RM = np.abs(sums_R4M[:, 0] / sums_R4M[:, 1] - sums_R4M[:, 2] / sums_R4M[:, 3])
        large_M += (made_RM >= seen_M * (1 - 1e-9)).sum(axis=0)
        done += count
    return (large_M + 1) / (resamples + 1)
