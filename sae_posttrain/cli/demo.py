"""`sae-posttrain demo`: the whole way from nothing to a measured SASFT run, offline, on a laptop."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("demo", help="train a miniature world and measure SASFT in it, offline, in minutes")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder to write (demo-output)")
    parser.add_argument("--suppress", default="zh", choices=("zh", "ru", "ko"), help="language to keep out (zh)")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..lab.demonstration import demonstrate

    demonstrate(args.output, suppress=args.suppress, seed=args.seed)
    return 0
