"""The processes of `accelerate launch`: which commands divide their work among them, and who prints and writes."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INTERRUPTED = 130
"""Exit code after Ctrl-C, as the shell's."""


def shares_work(parser: argparse.ArgumentParser, when: Any = True) -> None:
    """Declare that a command divides its work among processes, and that only the main one prints and writes.

    Args:
        parser: of the command.
        when: True, or a function of the command's arguments. Every other command refuses to run in several processes.
    """
    parser.set_defaults(shares_work=when)


def check_processes(args: argparse.Namespace) -> bool:
    """Whether this process may run the command; another one of several explains why they may not.

    Raises:
        ValueError: on the main one of several processes, if the command cannot divide its work among them.
    """
    shares = getattr(args, "shares_work", False)
    if int(os.environ.get("WORLD_SIZE") or 1) == 1 or (shares(args) if callable(shares) else shares):
        return True
    if int(os.environ.get("RANK") or 0):
        return False
    with_these = " with these options" if callable(shares) else ""
    raise ValueError(
        f"`{args.prog}`{with_these} does not divide its work among processes. Start it without `accelerate launch`."
    )


@contextmanager
def launched_processes() -> Iterator[Any]:
    """The processes of `accelerate launch`; the main one prints and writes."""
    from accelerate import Accelerator

    state = Accelerator()  # not PartialState: only Accelerator respects `accelerate launch --cpu`
    if not state.is_main_process:
        logging.disable(logging.WARNING)
    yield state
    state.wait_for_everyone()  # the process group must be idle when it is destroyed; see cli/trainer_runs.py
    state.end_training()
