"""`sae-posttrain measure repetition`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from ...artefacts import LOOP
from ...metrics.messages import clusters_of
from ...texts import Row
from ..inputs import add_loops, loop_settings
from .metric import Metric
from .reporting import finish
from .responses import ended, read_against, read_source

HELP = "share of responses that end in an endless loop, with an interval"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_loops(parser.add_argument_group("what counts"), tokens=False)


def run(args: argparse.Namespace) -> int:
    from ...metrics import RepetitionReport, compare_rates, find_repetition, repetition_rate

    settings = loop_settings(args, tokens=False)

    def report_of(rows: Sequence[Row]) -> RepetitionReport:
        return repetition_rate(
            [row["response"] for row in rows],
            settings,
            ended=ended(rows),
            clusters=clusters_of(rows),
            confidence=args.confidence,
            seed=args.seed,
        )

    def mark(row: Row) -> None:
        found = find_repetition(row["response"], settings, ended=ended([row])[0])
        loop = found.loop
        row[LOOP] = loop and {**asdict(loop), "text": row["response"][loop.start : loop.start + loop.period]}
        row["near_loop"] = found.near_loop and asdict(found.near_loop)
        row["repetition"], row["looped_share"] = found.kind, round(found.looped_share, 4)

    against = read_against(args)
    rows = read_source(args)
    return finish(rows, against, args, Metric(report_of, mark, compare_rates, joined=True))
