"""`sae-posttrain demo`: the whole way from nothing to a measured SASFT run, offline, on two cores."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("demo", help="train a miniature world and measure SASFT in it, offline, in minutes")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder to write (demo-output)")
    parser.add_argument("--suppress", default="zh", choices=("zh", "ru", "ko"), help="language to keep out (zh)")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    # Asked for first: without this the model would train for minutes before its SAE cannot.
    if missing := [library for library in ("trl", "sparsify", "matplotlib") if find_spec(library) is None]:
        raise ValueError(f"The demo needs {' and '.join(missing)}: pip install 'sae-posttrain[trl,train-sae,report]'")

    from ..lab import demonstration

    demonstration.demonstrate(args.output, suppress=args.suppress, seed=args.seed)
    return 0
