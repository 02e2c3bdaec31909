"""`data overlap`: how much of each benchmark the others cover."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING

from .reading import add_sets, collect, launched_processes, named
from .scores import scores_by_benchmark

if TYPE_CHECKING:
    from ...data import Overlap

HELP = "share of each benchmark's features that the other benchmarks also activate"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_sets(parser, "two benchmarks or more, such as gsm8k=gsm8k.jsonl math=math.jsonl")
    parser.add_argument(
        "--scores",
        metavar="FILE",
        help="also print the correlation of benchmarks over models; the file has rows with model, benchmark and score",
    )
    parser.add_argument(
        "--control",
        metavar="NAME",
        help="benchmark of general ability in --scores, such as mmlu, that the correlations control for",
    )


def run(args: argparse.Namespace) -> int:
    sources = named(args.sets)
    if len(sources) < 2:
        raise ValueError("Give at least two benchmarks, each as NAME=FILE.")
    if args.control and not args.scores:
        raise ValueError("--control names a benchmark in the file of --scores: give --scores too.")
    scores = scores_by_benchmark(args.scores, sources, args.control) if args.scores else {}

    from ...data import overlap, partial_correlation

    with launched_processes() as state:
        found = overlap(collect(args, state.device, sources, "last"))
        if state.is_main_process:
            correlations = {
                f"{one} {other}": (
                    partial_correlation(scores[one], scores[other], scores[args.control])
                    if args.control
                    else _correlation(scores[one], scores[other])
                )
                for one, other in combinations(scores and found.names, 2)
            }
            _print_json(found, correlations) if args.json else _print_overlap(found, correlations, args.control)
    return 0


def _print_json(found: Overlap, correlations: Mapping[str, float]) -> None:
    values = {"names": found.names, "features": found.sizes.tolist(), "covered": found.covered.tolist()}
    print(json.dumps({**values, "similarity": found.similarity.tolist(), "correlations": correlations}))


def _print_overlap(found: Overlap, correlations: Mapping[str, float], control: str | None) -> None:
    width = max(len(name) for name in found.names) + 2
    print("Share of the row's features that fire in the column's benchmark:")
    print(" " * width + "features".rjust(10) + "".join(name.rjust(width) for name in found.names))
    for name, size, row in zip(found.names, found.sizes, found.covered, strict=True):
        print(name.ljust(width) + f"{size:10}" + "".join(f"{share:{width}.3f}" for share in row))
    print()
    for name in found.names:
        other, share = found.most_covered(name)
        print(f"{name}: {other} covers most of its features, {share:.1%}; {1 - share:.1%} do not fire there.")
    for pair, value in correlations.items():
        print(f"{pair}: correlation over models {value:.3f}" + (f", controlling for {control}" if control else ""))


def _correlation(first: list[float], second: list[float]) -> float:
    import numpy as np

    return float(np.corrcoef(first, second)[0, 1])
