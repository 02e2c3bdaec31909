"""The `sae-posttrain` command. One module per command; each imports its heavy libraries only when it runs."""

from __future__ import annotations

import argparse
import logging
import os
import select
import sys
from collections.abc import Sequence

from .. import __version__
from . import (
    calibrate,
    classify,
    data,
    demo,
    diagnose,
    discover,
    features,
    grpo,
    inspect,
    measure,
    report,
    sae,
    sft,
    steer,
)
from .processes import INTERRUPTED, check_processes
from .wording import in_options

CLOSED = 141
"""Exit code when the reader of the output has closed the pipe, as in `… | head`; the same as after SIGPIPE."""


ABOUT = (
    "Keep a language model from switching language and from endless repetition, by training it with SAE features or "
    "without. Measure both failures, and use the same features to steer and inspect models and to compare data."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. An error by the user prints its message and returns exit code 2."""
    try:
        code = _main(arguments)
        sys.stdout.flush()  # flush here: a closed pipe cannot be handled at interpreter exit
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
    """Whether the reader of the output has closed the pipe."""
    try:
        sys.stdout.flush()
        return _has_no_reader(sys.stdout.fileno())
    except BrokenPipeError:
        return True
    except (OSError, ValueError):  # the output is not a file, for example in a notebook
        return False


def _closed() -> int:
    """Discard the rest of the output and return the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return CLOSED


def _has_no_reader(descriptor: int) -> bool:
    """Whether the system reports a closed pipe. Flushing does not detect this when the output is unbuffered."""
    if not hasattr(select, "poll"):  # Windows has no `poll` for pipes
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _describe(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Show each command's line of help at the top of its own --help too, and let it know its name."""
    for shown in commands._choices_actions:
        parser = commands.choices[shown.dest]
        parser.description = f"{(shown.help or '')[:1].upper()}{(shown.help or '')[1:]}."
        parser.set_defaults(prog=parser.prog)
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                _describe(action)


def parser_of_all() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="sae-posttrain", description=ABOUT)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error came from")
    commands = parser.add_subparsers(required=True, metavar="command")
    for module in (
        discover,
        features,
        sae,
        calibrate,
        sft,
        grpo,
        measure,
        inspect,
        diagnose,
        classify,
        data,
        report,
        steer,
        demo,
    ):
        module.add_parser(commands)
    _describe(commands)
    return parser


def _main(arguments: Sequence[str] | None) -> int:
    parser = parser_of_all()
    args, rest = parser.parse_known_args(arguments)
    if rest and not getattr(args, "passes_rest", False):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    args.rest = rest
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    from ..bars import bars_in_lines  # imported here because only running commands need tqdm

    try:
        if not check_processes(args):
            return 2
        with bars_in_lines():
            return int(args.run(args))
    except KeyboardInterrupt:  # where a command has nothing to say about it
        if args.traceback:
            raise
        print("sae-posttrain: stopped.", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError, ImportError) as error:
        if args.traceback or (isinstance(error, BrokenPipeError) and _is_closed()):
            raise
        print(f"sae-posttrain: error: {in_options(str(error), args)}", file=sys.stderr)
        return 2
