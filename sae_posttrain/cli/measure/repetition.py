"""`sae-posttrain measure repetition`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from ..inputs import Row
from .output import finish
from .responses import clusters, read_against, read_source

HELP = "share of responses that end in an endless loop, with an interval"


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what counts")
    group.add_argument("--min-repeats", type=int, default=4, help="whole periods a loop has (default: 4)")
    group.add_argument("--min-length", type=int, default=100, help="characters a loop has (default: 100)")
    group.add_argument("--fold-digits", action="store_true", help="take all digits for alike, so that counters loop")


def run(args: argparse.Namespace) -> int:
    from ...metrics import RepetitionReport, find_loop, fold_digits, repetition_rate

    least = {"min_repeats": args.min_repeats, "min_length": args.min_length}

    def read(row: Row) -> str:
        return fold_digits(row["response"]) if args.fold_digits else row["response"]

    def report_of(rows: Sequence[Row]) -> RepetitionReport:
        texts = [read(row) for row in rows]
        return repetition_rate(texts, clusters=clusters(rows), confidence=args.confidence, seed=args.seed, **least)

    def mark(row: Row) -> None:
        loop = find_loop(read(row), **least)
        row["loop"] = loop and {**asdict(loop), "text": row["response"][loop.start : loop.start + loop.period]}

    against = read_against(args)
    rows = read_source(args)
    return finish(rows, against, args, report_of, mark, fold_digits=args.fold_digits)
