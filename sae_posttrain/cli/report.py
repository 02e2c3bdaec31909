"""`sae-posttrain report`: one HTML page about one or more runs."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("report", help="write one self-contained HTML page about one or more runs")
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="output folder of sft, grpo or demo; it may also contain files of measure, inspect, discover and "
        "calibrate. Or one such file",
    )
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="file to write (default: report.html)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..report import write_report

    if args.output.is_dir():
        raise ValueError(f"--output {args.output} is a folder; name the file to write, ending in .html.")
    print(f"Wrote {write_report(args.runs, args.output)}")
    return 0
