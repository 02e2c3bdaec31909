"""`sae-posttrain measure`: measure how often responses fail. They are read from a file or sampled from a model."""

from __future__ import annotations

import argparse
from typing import Protocol

from ..engine_options import VLLM, add_engine, add_steering
from ..processes import shares_work
from . import code_switching, language_confusion, repetition
from .reporting import add_output
from .responses import add_sampling, add_source
from .thinking import add_thinking


class MeasureCommand(Protocol):
    """The interface that each module of this package provides for one kind of `measure`."""

    @property
    def HELP(self) -> str:  # noqa: N802
        """The description for --help."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options that say what counts."""

    def run(self, args: argparse.Namespace) -> int:
        """Measure, with `finish`. Returns the exit code."""


METRICS: dict[str, MeasureCommand] = {
    "code-switching": code_switching,
    "repetition": repetition,
    "language-confusion": language_confusion,
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("measure", help="measure how often given or sampled responses fail")
    kinds = parser.add_subparsers(required=True, metavar="kind")
    for name, kind in METRICS.items():
        one = kinds.add_parser(name, help=kind.HELP)
        add_source(one)
        add_output(one.add_argument_group("output"))
        add_sampling(one.add_argument_group("sampling, with --model"))
        engine = one.add_argument_group("engine that samples, with --model")
        add_engine(engine)
        add_steering(engine)
        kind.add_options(one)
        add_thinking(one)
        one.set_defaults(run=kind.run)
        shares_work(one, when=_samples_here)


def _samples_here(args: argparse.Namespace) -> bool:
    """Whether the command samples from a model in these processes; vLLM has processes of its own, and says so."""
    given = args.responses or args.endpoint or getattr(args, "expected", False)
    return args.engine == VLLM or bool(args.model and not given)
