"""`data coverage`: how coverage of the wanted features grows with examples of several data sets."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..inputs import at_least, named
from ..output_files import check_json, replacing
from ..processes import launched_processes
from .missing import add_at, wanted_rows
from .reading import add_reading, collect
from .targets import add_targets, check_targets

if TYPE_CHECKING:
    from ...data import CoverageCurve

HELP = "compare how fast data sets cover the wanted features, at an equal number of examples"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sets", nargs="+", metavar="NAME=FILE", help="data sets, such as synthetic=kept.jsonl natural=pool.jsonl"
    )
    add_targets(parser)
    parser.add_argument("--seed-set", metavar="FILE", help="data set that all others are added to")
    parser.add_argument(
        "--budget",
        type=at_least(1),
        help="number of examples of each data set (default: the size of the smallest one)",
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="NAME=COLUMN",
        help="column of the texts, for data sets where it is not --column, such as synthetic=prompt; for --pool and "
        "--seed-set, NAME is pool and seed",
    )
    add_at(parser)
    parser.add_argument(
        "--draws", type=at_least(1), default=200, help="random draws for the bands of the plot (default: %(default)s)"
    )
    parser.add_argument("--output", metavar="FILE", help=".json file to write the curves to, for `report`")
    add_reading(parser)


def run(args: argparse.Namespace) -> int:
    check_targets(args)
    sources = named(args.sets)
    if taken := {"pool", "seed"} & sources.keys():
        raise ValueError(f"{min(taken)!r} is a name of this command's own; give the data set another one.")
    output = check_json(args.output) if args.output else None

    from ...data import coverage_at, coverage_curve, coverage_to_json, target_coverage

    with launched_processes() as state:
        extra = {name: file for name, file in (("pool", args.pool), ("seed", args.seed_set)) if file}
        firing = collect(args, state.device, {**sources, **extra}, args.at, named(args.columns))
        targets = [row["feature"] for row in wanted_rows(args, firing)]
        covered: list[int] = []
        if args.seed_set:
            of_seed = target_coverage(firing["seed"], targets)
            covered = of_seed.targets[of_seed.counts > 0].tolist()
        budget = args.budget or min(len(firing[name]) for name in sources)
        shape = {"covered": covered, "draws": args.draws, "budgets": [budget]}
        curves = {name: coverage_curve(firing[name], targets, **shape) for name in sources}
        at_budget = coverage_at(curves, budget)
        if state.is_main_process:
            sizes = {"targets": len(targets), "covered": len(covered)}
            _print(curves, at_budget, budget, **sizes)
            if output is not None:
                with replacing(output) as file:
                    values = coverage_to_json(curves, layer=args.layer, **sizes, budget=budget)
                    file.write(json.dumps(values) + "\n")
    return 0


def _print(
    curves: Mapping[str, CoverageCurve], at_budget: Mapping[str, float], budget: int, targets: int, covered: int
) -> None:
    start = f" The seed set fires {covered} of them, {covered / targets:.1%}." if covered else ""
    print(f"{targets} wanted features.{start}")
    width = max(len(name) for name in curves) + 2
    print(f"{'data set':<{width}} examples  covered by all  covered by {budget}")
    for name, curve in curves.items():
        last = f"{at_budget[name]:.1%}".rjust(11 + len(str(budget)))
        print(f"{name:<{width}} {curve.budgets[-1]:8} {curve.expected[-1]:15.1%}  {last}")
