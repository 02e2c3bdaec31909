"""Two runs on the same prompts: the difference, its interval and its p-value, against slower ways to get them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from sae_posttrain.metrics import code_switching_rate, compare_rates, repetition_rate
from sae_posttrain.metrics.interval import share_interval


@dataclass
class Run:
    outcomes: tuple[tuple[Any, bool], ...]
    confidence: float = 0.95


def run(*prompts: Any) -> Any:
    """One letter per sample: x went wrong."""
    return Run(tuple((number, letter == "x") for number, samples in enumerate(prompts) for letter in samples))


def test_p_value_is_that_of_every_way_to_swap() -> None:
    first, second = run("x.", "..", "xx", ".", "x."), run("xx", "x.", "xx", "x", "xx")
    by_prompt = [
        [(samples.count("x"), len(samples)) for samples in prompts]
        for prompts in (("x.", "..", "xx", ".", "x."), ("xx", "x.", "xx", "x", "xx"))
    ]

    def difference(swapped: Any) -> Any:
        sums = [[0, 0], [0, 0]]
        for prompt, swap in enumerate(swapped):
            for side in (0, 1):
                hits, size = by_prompt[side ^ swap][prompt]
                sums[side][0] += hits
                sums[side][1] += size
        return sums[0][0] / sums[0][1] - sums[1][0] / sums[1][1]

    observed = difference([0] * 5)
    exact = np.mean([abs(difference(s)) >= abs(observed) - 1e-9 for s in itertools.product((0, 1), repeat=5)])
    found = compare_rates(first, second)
    assert found.difference == pytest.approx(observed)
    assert found.p_value == pytest.approx(exact, abs=0.02)


def test_p_value_is_that_of_every_way_to_deal_where_numbers_differ() -> None:
    """One answer to each prompt against three: which of the four is the single one?"""
    prompts = [("x", "..."), (".", "xxx"), (".", "xx."), (".", "x.x"), ("x", "xx.")]
    found = compare_rates(run(*(one for one, _ in prompts)), run(*(three for _, three in prompts)))
    differences = []
    for chosen in itertools.product(range(4), repeat=len(prompts)):
        hits = [0, 0]
        for place, (one, three) in zip(chosen, prompts, strict=True):
            dealt = one + three
            hits[0] += dealt[place] == "x"
            hits[1] += dealt.count("x") - (dealt[place] == "x")
        differences.append(hits[0] / 5 - hits[1] / 15)
    exact = np.mean([abs(one) >= abs(found.difference) - 1e-9 for one in differences])
    assert found.p_value == pytest.approx(exact, abs=0.02)


def test_chance_is_seldom_called_a_difference_where_numbers_differ() -> None:
    """A single answer to each of 12 prompts that mostly fail, against three."""
    rng = np.random.default_rng(2)
    called = 0
    for _ in range(80):
        rates = rng.beta(8, 2, size=12)
        one, three = rng.random(12) < rates, rng.binomial(3, rates)
        many = run(*("x" * n + "." * (3 - n) for n in three))
        called += compare_rates(run(*("x" if hit else "." for hit in one)), many).p_value <= 0.05
    assert called <= 6


def test_runs_that_are_alike_do_not_differ() -> None:
    same = run(*["x."] * 5, *[".."] * 20)
    found = compare_rates(same, same)
    assert (found.difference, found.p_value, found.prompts) == (0, 1, 25)
    low, high = share_interval([1] * 5 + [0] * 20, [2] * 25)
    assert found.low <= 0 <= found.high
    assert found.high - found.low < high - low  # the same prompts go wrong in both


def test_interval_agrees_with_drawing_prompts_one_by_one() -> None:
    rng = np.random.default_rng(0)
    hard = rng.beta(0.5, 1, size=400)
    hits = np.stack([rng.binomial(8, hard), rng.binomial(8, hard * 0.7)])
    runs = [run(*("x" * n + "." * (8 - n) for n in row)) for row in hits]
    drawn = rng.integers(0, 400, size=(4000, 400))
    shares = hits[:, drawn].sum(-1) / (8 * 400)
    low, high = np.quantile(shares[0] - shares[1], [0.025, 0.975])
    found = compare_rates(*runs)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.005)
    assert found.p_value < 0.001
    apart = share_interval(hits[0], [8] * 400)
    assert found.high - found.low < apart[1] - apart[0]  # pairing tells more than two runs by themselves


def test_neither_going_wrong_is_no_certainty() -> None:
    found = compare_rates(run(*"." * 100), run(*"." * 100))
    assert found.difference == 0
    assert found.high == -found.low > 0.02
    assert found.p_value == 1


def test_chance_alone_is_seldom_called_a_difference() -> None:
    rng = np.random.default_rng(1)
    called = 0
    for _ in range(40):
        hits = rng.binomial(4, rng.beta(0.3, 3, size=60), size=(2, 60))
        found = compare_rates(*(run(*("x" * n + "." * (4 - n) for n in row)) for row in hits))
        called += found.p_value < 0.05 or not found.low <= 0 <= found.high
    assert called <= 6


def test_reports_compare() -> None:
    clusters = ["a", "a", "b", "b"]
    worse = code_switching_rate(["ok 中", "中", "ok", "中"], "en", clusters=clusters)
    better = code_switching_rate(["ok", "中", "ok", "ok"], "en", clusters=clusters)
    found = compare_rates(better, worse)
    assert (found.rate, found.against, found.difference) == (0.25, 0.75, -0.5)
    assert found.to_dict()["difference"] == -0.5
    assert found.table().startswith("against 75.000%: -50.000 points, 95% interval")
    loop = "and so on, " * 20
    assert compare_rates(repetition_rate([loop, "a"]), repetition_rate(["a", "b"])).difference == 0.5


def test_runs_on_other_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1 are in the first only \(such as 2\), 0 in the second only"):
        compare_rates(run("x", ".", "."), run("x", "."))
