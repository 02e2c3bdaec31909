"""`data redundancy`: how much of a benchmark a part of it covers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from .reading import add_sets, collect, launched_processes, named
from .scores import scores_by_example

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
        help="also print how well a part ranks models; the file has rows with model, example (row number, from 1) "
        "and score",
    )


def run(args: argparse.Namespace) -> int:
    sources = named(args.sets)
    scores = {name: scores_by_example(file) for name, file in named(args.scores).items()}
    if unknown := scores.keys() - sources.keys():
        raise ValueError(f"--scores names {', '.join(sorted(unknown))}; expected one of {', '.join(sources)}.")

    from ...data import ranking_agreement, redundancy

    with launched_processes() as state:
        found = {}
        for name, sets in collect(args, state.device, sources, "last").items():
            one = redundancy(sets)
            found[name] = {
                "examples": one.examples,
                "features": one.features,
                "auc": one.auc,
                "redundancy": one.redundancy,
                "examples_for_90_percent": one.examples_for(0.9),
                "coverage": one.coverage.tolist(),
            }
            if name in scores:
                sizes = sorted({max(1, round(share * scores[name].shape[1])) for share in SHARES})
                agreement = ranking_agreement(scores[name], sizes).tolist()
                found[name]["ranking_agreement"] = dict(zip(map(str, sizes), agreement, strict=True))
        if state.is_main_process:
            print(json.dumps(found)) if args.json else _print_redundancy(found)
    return 0


def _print_redundancy(found: Mapping[str, Mapping[str, Any]]) -> None:
    print(f"{'benchmark':<20} examples  features    AUC  redundancy  examples for 90%")
    for name, row in found.items():
        print(
            f"{name:<20} {row['examples']:8} {row['features']:9} {row['auc']:6.3f} {row['redundancy']:11.3f} "
            f"{row['examples_for_90_percent']:17}"
        )
        for size, tau in row.get("ranking_agreement", {}).items():
            print(f"{'':<20} a random part of {size} examples ranks models with Kendall tau {tau:.3f}")
