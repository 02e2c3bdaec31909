"""The `sae-posttrain` command. One module per command; each imports its heavy libraries only when it runs."""

from __future__ import annotations

import argparse
import logging
import os
import select
import sys
from collections.abc import Sequence

from .. import __version__
from . import calibrate, data, demo, discover, features, grpo, inspect, measure, report, sae, sft, steer
from .wording import in_options

CLOSED = 141
"""Exit code when who reads the output is gone, as `… | head`: that of a program that SIGPIPE ends."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake ends with its message and exit code 2."""
    try:
        code = _main(arguments)
        sys.stdout.flush()  # not at the interpreter's end, where nothing can be done about a closed pipe
        return code
    except SystemExit:
        if _is_closed():  # --help | head
            return _closed()
        raise
    except BrokenPipeError:
        if _is_closed():
            return _closed()
        raise


def _is_closed() -> bool:
    """Whether nobody reads the output any more."""
    try:
        sys.stdout.flush()
        return _has_no_reader(sys.stdout.fileno())
    except BrokenPipeError:
        return True
    except (OSError, ValueError):  # no file at all, as in a notebook
        return False


def _closed() -> int:
    """Let what is left of the output go nowhere; returns the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return CLOSED


def _has_no_reader(descriptor: int) -> bool:
    """With an unbuffered output there is nothing left to flush, and only the system knows."""
    if not hasattr(select, "poll"):  # Windows, which has no such pipes
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _main(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="sae-posttrain", description="SAE features as training signals.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error came from")
    commands = parser.add_subparsers(required=True, metavar="command")
    for module in (discover, features, sae, calibrate, sft, grpo, measure, inspect, data, report, steer, demo):
        module.add_parser(commands)
    args, rest = parser.parse_known_args(arguments)
    if rest and not getattr(args, "passes_rest", False):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    args.rest = rest
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    from ..bars import bars_in_lines  # here, since tqdm is only needed by what runs

    try:
        with bars_in_lines():
            return int(args.run(args))
    except (ValueError, OSError, ImportError) as error:
        if args.traceback or (isinstance(error, BrokenPipeError) and _is_closed()):
            raise
        print(f"sae-posttrain: error: {in_options(str(error), args)}", file=sys.stderr)
        return 2
