"""`sae-posttrain data`: analyse and select data sets by the SAE features that they activate."""

from __future__ import annotations

import argparse
from typing import Protocol

from . import coverage, explain, missing, overlap, redundancy, select, synthesize, verify


class DataCommand(Protocol):
    """The interface that each module of this package provides for one kind of `data`."""

    @property
    def HELP(self) -> str:  # noqa: N802
        """What the command does, for --help."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's own options and those of `reading`."""

    def run(self, args: argparse.Namespace) -> int:
        """Run the command; returns the exit code."""


KINDS: dict[str, DataCommand] = {
    "redundancy": redundancy,
    "overlap": overlap,
    "select": select,
    "missing": missing,
    "explain": explain,
    "synthesize": synthesize,
    "verify": verify,
    "coverage": coverage,
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("data", help="analyse, select and complete data sets by their SAE features")
    kinds = parser.add_subparsers(required=True, metavar="kind")
    for name, kind in KINDS.items():
        one = kinds.add_parser(name, help=kind.HELP)
        kind.add_options(one)
        one.set_defaults(run=kind.run)
