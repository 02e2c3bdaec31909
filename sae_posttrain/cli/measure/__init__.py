"""`sae-posttrain measure`: how often responses, given or sampled from a model, go wrong."""

from __future__ import annotations

import argparse

from . import code_switching, language_confusion, repetition
from .reporting import add_output
from .responses import add_sampling, add_source
from .thinking import add_thinking


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("measure", help="measure responses, given or sampled from a model")
    kinds = parser.add_subparsers(required=True, metavar="kind")
    for name, kind in (
        ("code-switching", code_switching),
        ("repetition", repetition),
        ("language-confusion", language_confusion),
    ):
        one = kinds.add_parser(name, help=kind.HELP)
        add_source(one)
        add_output(one.add_argument_group("output"))
        add_sampling(one.add_argument_group("sampling, with --model"))
        kind.add_options(one)
        add_thinking(one)
        one.set_defaults(run=kind.run)
