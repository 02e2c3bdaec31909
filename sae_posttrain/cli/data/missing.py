"""`data missing`: the wanted features that a data set never fires, or fires too rarely."""

from __future__ import annotations

import argparse
from typing import Any

from ..inputs import at_least
from ..output_files import check_file
from ..processes import launched_processes
from .reading import add_reading, collect
from .targets import WEAK, add_targets, check_targets, read_targets, write_jsonl

HELP = "list the wanted features that a data set never fires, or fires too rarely"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE", help="the data set to complete")
    add_targets(parser)
    parser.add_argument(
        "--weak",
        type=at_least(1),
        default=WEAK,
        metavar="N",
        help="a feature that fires on fewer examples is weakly covered (default: %(default)s)",
    )
    add_at(parser)
    parser.add_argument("--output", required=True, metavar="FILE", help=".jsonl file to write the features to")
    add_reading(parser)


def add_at(parser: argparse.ArgumentParser) -> None:
    """Add `--at`, which tokens of a text count."""
    parser.add_argument(
        "--at",
        choices=("any", "last"),
        default="any",
        help="any: read every token of a text; last: only the last (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    check_targets(args)
    output = check_file(args.output, inputs=[args.source, args.targets, args.pool])

    from ...data import target_coverage

    with launched_processes() as state:
        sources = {"seed": args.source, **({"pool": args.pool} if args.pool else {})}
        firing = collect(args, state.device, sources, args.at)
        rows = wanted_rows(args, firing)
        found = target_coverage(firing["seed"], [row["feature"] for row in rows])
        counts = dict(zip(found.targets.tolist(), found.counts.tolist(), strict=True))
        weak = len(found.weak(args.weak))
        if state.is_main_process:
            poor = [{**row, "examples": counts[row["feature"]]} for row in rows if counts[row["feature"]] < args.weak]
            # What fires in most texts of the pool is wanted most; --limit-targets of the next commands takes the first.
            write_jsonl(output, sorted(poor, key=lambda row: (row["examples"], -row.get("pool_examples", 0))))
            print(
                f"{args.output}: {found.examples} examples fire {found.share:.1%} of {len(found.targets)} wanted "
                f"features. {len(found.missing)} are missing, and {weak} are fired by fewer than {args.weak} examples."
                + " So the file is empty."
                * (not poor)
            )
    return 0


def wanted_rows(args: argparse.Namespace, firing: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each wanted feature: those of --targets, or those that fire in `firing["pool"]`."""
    if args.targets:
        found = read_targets(args.targets, args.layer, args.min_relevance)
        return list({row["feature"]: row for row in found}.values())
    counts = firing["pool"].counts()
    rows = [
        {"layer": args.layer, "feature": int(feature), "pool_examples": int(counts[feature])}
        for feature in (counts >= args.pool_least).nonzero()[0]
    ]
    if not rows:
        raise ValueError(f"No feature fires in {args.pool_least} texts of {args.pool}.")
    return rows
