"""Do a language's features rise before the model switches to it? Their pre-activations around sampled switches.

python recipes/real_weights/before_switches.py --runs runs/sft-0 --answers causality/answers-0.jsonl \
    --features features-0.safetensors --random random-0.safetensors --texts texts-0 --results real_weights.csv
Beside them stand the features of the other languages, random features, and the same places in answers in the same
language that do not switch. Values are means over switches and features, in units of the typical activation.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from result_rows import COLUMNS, Arm, replace_rows, row  # type: ignore[import-not-found]
from switch_seeds import (  # type: ignore[import-not-found]
    RECIPE,
    Pairs,
    Seed,
    add_seeds,
    named,
    pairs_of,
    seeds_of,
    together,
)

from sae_posttrain import FeatureSet
from sae_posttrain.inspection import SwitchPassage, trace_switches

OFFSETS = (-8, -4, -3, -2, -1, 0)
NORMAL = 1.96  # standard errors on each side of a 95% interval


@dataclass(frozen=True)
class Curve:
    """Means around places, and their standard errors, by offset; None where no answer has such a token."""

    arm: Arm
    metric: str
    count: int
    mean: dict[int, float | None]
    error: dict[int, float | None]


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the command; returns the rows of its results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_seeds(parser)
    args = parser.parse_args(arguments)
    groups: dict[tuple[str, str], list[Curve]] = {}
    for seed in seeds_of(args):
        for target in args.targets:
            for curve in curves(seed, target, pairs_of(seed, target, args.switches), args):
                groups.setdefault((curve.arm.arm, curve.metric), []).append(curve)
    all_curves = [curve for group in groups.values() for curve in with_joined(group)]
    written = [line for curve in all_curves for line in rows_of(curve)]
    replace_rows(args.results, written)
    for line in written:
        print(", ".join(str(line[name]) for name in COLUMNS[2:10]), flush=True)
    return written


def curves(seed: Seed, target: str, pairs: Pairs, args: argparse.Namespace) -> Iterator[Curve]:
    """At switches and at the same places without one, for each language's features and for random ones."""
    groups = [(f"features of {code}", seed.features, code) for code in args.targets]
    groups += [("random features", seed.random, target)] if seed.random else []
    for whose, features, code in groups:
        found = list(traced(seed, features, pairs.switches, code, f"into {target}, {whose}", "at a switch", args))
        yield from found
        if pairs.ordinary and (code == target):
            name = f"into {target}, {whose}"
            plain = list(traced(seed, features, pairs.ordinary, code, name, "without a switch", args))
            yield from plain
            yield from map(difference, found, plain)


def traced(
    seed: Seed,
    features: FeatureSet,
    passages: Sequence[SwitchPassage],
    code: str,
    name: str,
    where: str,
    args: argparse.Namespace,
) -> Iterator[Curve]:
    """A curve for each layer."""
    spans = {"before": -min(OFFSETS), "after": max(OFFSETS)}
    trace = trace_switches(
        seed.model, features, passages, code, name=seed.arm.arm, batch_size=args.batch_size, show=0, **spans
    )
    for layer in trace.layers:
        by_offset = [
            {offset: value for offset, value in zip(trace.offsets, values, strict=True) if offset in OFFSETS}
            for values in (layer.average.mean, layer.average.error)
        ]
        yield Curve(named(seed, f"{name}, layer {layer.layer}"), f"pre-activation {where}", len(passages), *by_offset)


def difference(found: Curve, plain: Curve) -> Curve:
    """How much higher the pre-activation is at switches than at the same places without one."""
    mean = {offset: minus(found.mean[offset], plain.mean[offset]) for offset in OFFSETS}
    error = {offset: combined([found.error[offset], plain.error[offset]]) for offset in OFFSETS}
    return Curve(found.arm, "difference of pre-activation to places without a switch", found.count, mean, error)


def with_joined(group: Sequence[Curve]) -> Iterator[Curve]:
    """The curves of an arm's seeds, and their mean: each seed counts the same."""
    yield from group
    if len(group) > 1:
        values = {offset: [curve.mean[offset] for curve in group] for offset in OFFSETS}
        known = {offset: [value for value in ones if value is not None] for offset, ones in values.items()}
        mean = {offset: sum(ones) / len(ones) if len(ones) == len(group) else None for offset, ones in known.items()}
        errors = {offset: combined([curve.error[offset] for curve in group]) for offset in OFFSETS}
        error = {offset: None if one is None else one / len(group) for offset, one in errors.items()}
        count = sum(curve.count for curve in group)
        yield Curve(together([curve.arm for curve in group]), group[0].metric, count, mean, error)


def minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def combined(errors: Sequence[float | None]) -> float | None:
    """The standard error of a sum or difference; None where one is not known."""
    known = [error for error in errors if error is not None]
    return sqrt(sum(error**2 for error in known)) if len(known) == len(errors) else None


def rows_of(curve: Curve) -> Iterator[dict[str, Any]]:
    """A row for each offset in tokens; 0 is the first token of the foreign word."""
    for offset in OFFSETS:
        mean, error = curve.mean[offset], curve.error[offset]
        if mean is not None:
            low, high = (None, None) if error is None else (mean - NORMAL * error, mean + NORMAL * error)
            yield row(RECIPE, curve.arm, curve.metric, f"offset {offset}", mean, low, high, curve.count)


if __name__ == "__main__":
    main()
