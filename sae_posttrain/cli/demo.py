"""`sae-posttrain demo`: the whole way from nothing to measured runs of both methods, offline, on two cores."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

HALVES = ("sft", "grpo")


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "demo", help="train miniature worlds and measure both methods there, offline, in minutes"
    )
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder to write (demo-output)")
    parser.add_argument("--only", choices=HALVES, help="one half: SASFT, or steered rollouts (default: both)")
    parser.add_argument("--suppress", default="zh", choices=("zh", "ru", "ko"), help="language to keep out (zh)")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    # Asked for first: without this the model would train for minutes before its SAE cannot.
    if missing := [library for library in ("trl", "sparsify", "matplotlib") if find_spec(library) is None]:
        raise ValueError(f"The demo needs {' and '.join(missing)}: pip install 'sae-posttrain[trl,train-sae,report]'")

    from ..lab import demonstration
    from ..lab.loops import demonstration as loops

    if args.only != "grpo":
        print("SASFT: less code-switching", flush=True)
        demonstration.demonstrate(args.output / "sft", suppress=args.suppress, seed=args.seed)
    if args.only != "sft":
        print(f"{'' if args.only else chr(10)}Steered rollouts: less endless repetition", flush=True)
        loops.demonstrate(args.output / "grpo", seed=args.seed)
    return 0
