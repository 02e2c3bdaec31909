"""`data redundancy`: how much of a benchmark a part of it covers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...artefacts import BENCHMARK_REDUNDANCY
from ..inputs import named
from ..output_files import check_json
from ..processes import launched_processes
from .reading import add_sets, check_fires, collect, write_values
from .scores import scores_by_example

if TYPE_CHECKING:
    from ...discovery.firing import FiringSets

HELP = "share of a benchmark's features that a subset of its rows already activates"

SHARES = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Sizes of the subsets whose ranking of the models is compared with the ranking on the full benchmark."""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_sets(parser, "benchmarks, such as gsm8k=gsm8k.jsonl")
    parser.add_argument(
        "--scores",
        nargs="+",
        default=[],
        metavar="NAME=FILE",
        help="also print how well a subset ranks models; the file has rows with model, example (row number, from 1) "
        "and score",
    )


def run(args: argparse.Namespace) -> int:
    output = check_json(args.output) if args.output else None
    sources = named(args.sets)
    scores = {name: scores_by_example(file) for name, file in named(args.scores).items()}
    if unknown := scores.keys() - sources.keys():
        raise ValueError(f"--scores names {', '.join(sorted(unknown))}; expected one of {', '.join(sources)}.")

    with launched_processes() as state:
        sets = check_fires(collect(args, state.device, sources, "last"), "last")
        if state.is_main_process:
            found = {name: _redundancy_of(one, scores.get(name)) for name, one in sets.items()}
            print(json.dumps(found)) if args.json else _print_redundancy(found)
            if output is not None:
                write_values(output, BENCHMARK_REDUNDANCY, [{"name": name, **row} for name, row in found.items()])
    return 0


def _redundancy_of(sets: FiringSets, scores_ME: Any) -> dict[str, Any]:
    from ...data import ranking_agreement, ranking_redundancy, redundancy

    one = redundancy(sets)
    found = {
        **{"examples": one.examples, "features": one.features, "auc": one.auc, "redundancy": one.redundancy},
        "examples_for_90_percent": one.examples_for(0.9),
        "coverage": one.coverage.tolist(),
    }
    if scores_ME is not None:
        if scores_ME.shape[1] != len(sets):
            raise ValueError(f"The scores are of {scores_ME.shape[1]} examples, but the benchmark has {len(sets)}.")
        sizes = sorted({max(1, round(share * scores_ME.shape[1])) for share in SHARES})
        agreement = ranking_agreement(scores_ME, sizes).tolist()
        found["ranking_agreement"] = dict(zip(map(str, sizes), agreement, strict=True))
        found["ranking_redundancy"] = ranking_redundancy(scores_ME)
    return found


def _print_redundancy(found: Mapping[str, Mapping[str, Any]]) -> None:
    print(f"{'benchmark':<20} examples  features    AUC  redundancy  examples for 90%")
    for name, row in found.items():
        print(
            f"{name:<20} {row['examples']:8} {row['features']:9} {row['auc']:6.3f} {row['redundancy']:11.3f} "
            f"{row['examples_for_90_percent']:17}"
        )
        for size, tau in row.get("ranking_agreement", {}).items():
            print(f"{'':<20} a random subset of {size} examples ranks models with Kendall tau {tau:.3f}")
        if "ranking_redundancy" in row:
            print(f"{'':<20} R(D), the mean of tau over all sizes, is {row['ranking_redundancy']:.3f}")
    ranked = [row for row in found.values() if "ranking_redundancy" in row]
    if len(ranked) > 2:
        from ...data.overlap import rank_correlation

        value = rank_correlation([row["redundancy"] for row in ranked], [row["ranking_redundancy"] for row in ranked])
        print(f"Over these {len(ranked)} benchmarks, redundancy and R(D) have Spearman's correlation {value:.3f}.")
