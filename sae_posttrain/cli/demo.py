"""`sae-posttrain demo`: the whole way from nothing to measured runs of both methods, offline, on two cores."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

HALVES = ("switching", "loops")


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "demo", help="train miniature worlds and measure both methods there, offline, in minutes"
    )
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder to write (demo-output)")
    parser.add_argument("--only", choices=HALVES, help="one half of it (default: both)")
    parser.add_argument("--suppress", default="zh", choices=("zh", "ru", "ko"), help="language to keep out (zh)")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    # Asked for first: without this the model would train for minutes before its SAE cannot.
    if missing := [library for library in ("trl", "sparsify", "matplotlib") if find_spec(library) is None]:
        raise ValueError(f"The demo needs {' and '.join(missing)}: pip install 'sae-posttrain[trl,train-sae,report]'")

    from ..lab.loops import demonstration as loops
    from ..lab.shared.record import arm_folder
    from ..lab.switching import demonstration
    from ..report import write_report

    runs: list[Path] = []
    if args.only in (None, "switching"):
        print("Less code-switching, with SASFT", flush=True)
        output = args.output / "switching"
        outcomes = demonstration.demonstrate(output, suppress=args.suppress, seed=args.seed)
        runs += [*(arm_folder(output, outcome.arm) for outcome in outcomes), output]
    if args.only in (None, "loops"):
        print("\nLess endless repetition, with steered rollouts", flush=True)
        output = args.output / "loops"
        reinforced = loops.demonstrate(output, seed=args.seed)
        runs += [*(arm_folder(output, outcome.arm) for outcome in reinforced), output]
    report = write_report(runs, args.output / "report.html")
    print(f"\nOpen {report} in a browser: the numbers with their curves, features and examples.")
    return 0
