"""The `sae-posttrain` command. One module per command; each imports its heavy libraries only when it runs."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from .. import __version__
from . import calibrate, data, demo, discover, grpo, inspect, measure, report, sae, sft, steer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake ends with its message and exit code 2."""
    parser = argparse.ArgumentParser(prog="sae-posttrain", description="SAE features as training signals.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error came from")
    commands = parser.add_subparsers(required=True, metavar="command")
    for module in (discover, sae, calibrate, sft, grpo, measure, inspect, data, report, steer, demo):
        module.add_parser(commands)
    args, rest = parser.parse_known_args(arguments)
    if rest and not getattr(args, "passes_rest", False):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    args.rest = rest
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        return int(args.run(args))
    except (ValueError, OSError, ImportError) as error:
        if args.traceback:
            raise
        print(f"sae-posttrain: error: {error}", file=sys.stderr)
        return 2
