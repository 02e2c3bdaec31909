"""`data select`: choose rows that together activate as many features as possible."""

from __future__ import annotations

import argparse
import json

from ...texts import load_rows
from ..output_files import check_file, replacing
from .reading import add_reading, collect, launched_processes

HELP = "choose rows that together activate as many features as possible"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE", help="the rows to choose from")
    parser.add_argument("--n", type=int, required=True, help="number of rows to choose")
    parser.add_argument(
        "--at",
        choices=("any", "last"),
        default="any",
        help="any: read every token of a text; last: only the last (default: %(default)s)",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help=".jsonl file to write the chosen rows to")
    add_reading(parser)


def run(args: argparse.Namespace) -> int:
    output = check_file(args.output)
    rows = [row for row in load_rows(args.source) if str(row.get(args.column) or "").strip()][: args.limit]

    from ...data import select_by_coverage

    with launched_processes() as state:
        sets = collect(args, state.device, {"": args.source}, args.at)[""]
        chosen = select_by_coverage(sets, args.n)
        if state.is_main_process:
            with replacing(output) as file:
                for example in chosen.examples:
                    file.write(json.dumps(rows[example], ensure_ascii=False) + "\n")
            print(
                f"{args.output}: {args.n} of {len(sets)} rows. They fire {chosen.coverage[-1]:.1%} of the "
                f"{chosen.features} features that fire on any row."
            )
    return 0
