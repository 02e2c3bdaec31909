"""`data verify`: keep the synthesised examples that fire the feature they were made for."""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING

from ..output_files import check_file
from ..processes import launched_processes
from .missing import add_at
from .reading import add_reading, collect
from .targets import read_targets, write_jsonl

if TYPE_CHECKING:
    from ...data import Verification

HELP = "keep the synthesised examples that fire the feature they were made for"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="FILE", help="rows of `sae-posttrain data synthesize`, with prompt, layer and feature"
    )
    add_at(parser)
    parser.add_argument("--output", required=True, metavar="FILE", help=".jsonl file to write the kept rows to")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a sentence")
    add_reading(parser, column="prompt")


def run(args: argparse.Namespace) -> int:
    output = check_file(args.output, inputs=[args.source])
    rows = read_targets(args.source)[: args.limit]
    wrong = sorted({row["layer"] for row in rows} - {args.layer})
    if wrong:
        raise ValueError(f"{args.source} holds examples for layer {wrong[0]}, but --layer is {args.layer}.")
    empty = [number for number, row in enumerate(rows, start=1) if not str(row.get(args.column) or "").strip()]
    if empty:
        raise ValueError(f"{args.source}, row {empty[0]}: no text in column {args.column!r}.")

    from ...data import verify_targets

    with launched_processes() as state:
        firing = collect(args, state.device, {"synthetic": args.source}, args.at)["synthetic"]
        found = verify_targets(firing, [row["feature"] for row in rows])
        if state.is_main_process:
            kept = [row for row, fires in zip(rows, found.fires, strict=True) if fires]
            write_jsonl(output, kept)
            _print(
                args, found, targets=len({row["feature"] for row in rows}), hit=len({row["feature"] for row in kept})
            )
    return 0


def _print(args: argparse.Namespace, found: Verification, *, targets: int, hit: int) -> None:
    kept = int(found.fires.sum())
    if args.json:
        shares = {name: _number(getattr(found, name)) for name in ("share", "low", "high", "chance", "p_value")}
        print(
            json.dumps({"examples": len(found.fires), "kept": kept, "targets": targets, "targets_hit": hit, **shares})
        )
        return
    chance = (
        "There is one target only, so that there is nothing to compare with."
        if math.isnan(found.chance)
        else f"Targets of other examples fire in {found.chance:.1%} of them (p = {found.p_value:.2g})."
    )
    print(
        f"{args.output}: {kept} of {len(found.fires)} examples fire their target: {found.share:.1%} "
        f"({found.low:.1%} to {found.high:.1%}). {chance} {hit} of {targets} targets are "
        "fired by at least one example made for them."
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
