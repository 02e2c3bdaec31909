"""The options of the commands that ask a generator, and the generator that they name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine_options import add_requests
from ..inputs import searching_this_folder

if TYPE_CHECKING:
    from ...data import Generator, Instructions


def add_generator(parser: argparse.ArgumentParser, *, temperature: float, max_new_tokens: int) -> None:
    """Add the options that say who writes the texts, and how they are sampled."""
    group = parser.add_argument_group("generator")
    who = group.add_mutually_exclusive_group(required=True)
    who.add_argument(
        "--endpoint", metavar="URL", help="server with OpenAI's protocol, such as http://localhost:8000/v1"
    )
    who.add_argument(
        "--generator",
        metavar="MODULE:FUNCTION",
        help="Python function that answers a list of chats with a list of texts",
    )
    group.add_argument("--served-model", metavar="NAME", help="name of the model on the server; needed with --endpoint")
    group.add_argument("--api-key-variable", metavar="NAME", help="environment variable that holds the server's key")
    add_requests(group)
    group.add_argument(
        "--temperature",
        type=float,
        default=temperature,
        help="sampling temperature on the server (default: %(default)s)",
    )
    group.add_argument(
        "--top-p", type=float, default=0.95, help="nucleus sampling on the server (default: %(default)s)"
    )
    group.add_argument(
        "--max-new-tokens",
        type=int,
        default=max_new_tokens,
        help="token limit of an answer of the server (default: %(default)s)",
    )
    group.add_argument(
        "--seed", type=int, default=0, help="random seed of the server's sampling (default: %(default)s)"
    )
    group.add_argument(
        "--instructions", metavar="FILE", help=".yaml file with other instructions for the generator; see docs/data.md"
    )
    group.add_argument(
        "--answers",
        metavar="FILE",
        help=".jsonl file that stores every answer, so that a second run with the same generator and settings asks "
        "only for the missing ones (default: the output's name with .answers.jsonl)",
    )


def generator_of(args: argparse.Namespace) -> Generator:
    """The generator of `add_generator`, with its answers kept.

    Raises:
        ValueError: --endpoint without --served-model, or a Python function that does not exist.
    """
    from ...data import kept_answers, load_generator, server_generator
    from ...data.generators import count_kept
    from ...sampling import Endpoint, SamplingSettings

    path = Path(args.answers) if args.answers else Path(args.output).with_suffix(".answers.jsonl")
    about = {"generator": args.generator}
    if args.endpoint:
        if not args.served_model:
            raise ValueError("--endpoint needs --served-model, the name of the model on the server.")
        asking = (args.api_key_variable, args.concurrency, args.retries, args.timeout)
        endpoint = Endpoint(args.endpoint, args.served_model, *asking)
        shape = {"temperature": args.temperature, "top_p": args.top_p, "max_new_tokens": args.max_new_tokens}
        about = {"model": args.served_model, "seed": args.seed, **shape}
        settings = SamplingSettings(**shape, seed=args.seed)
        return kept_answers(server_generator(endpoint, settings, first=count_kept(path)), path, about, at_once=None)
    with searching_this_folder():
        generate = load_generator(args.generator)
    return kept_answers(generate, path, about)


def instructions_of(args: argparse.Namespace) -> Instructions:
    """The instructions of --instructions, or the project's own."""
    from ...data import Instructions

    if not args.instructions:
        return Instructions()
    import yaml

    with open(args.instructions, encoding="utf-8") as file:
        try:
            values = yaml.safe_load(file)
        except yaml.YAMLError as error:
            raise ValueError(f"{args.instructions} is not valid YAML ({error}).") from error
    if not isinstance(values, dict):
        raise ValueError(f"{args.instructions}: expected a mapping from the name of an instruction to its text.")
    return Instructions.of(values)
