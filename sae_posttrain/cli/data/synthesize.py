"""`data synthesize`: write examples for explained features."""

from __future__ import annotations

import argparse

from ..inputs import at_least
from ..output_files import check_file
from .generating import add_generator, generator_of, instructions_of
from .targets import read_targets, write_jsonl

HELP = "write examples for explained features: a prompt, rewrites of it, and an answer by label"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "targets", metavar="FILE", help="rows of `sae-posttrain data explain`, with layer, feature and explanation"
    )
    parser.add_argument("--per-target", type=int, default=4, help="prompts for each feature (default: %(default)s)")
    parser.add_argument("--rewrites", type=int, default=0, help="rewrites of each prompt (default: %(default)s)")
    parser.add_argument(
        "--show", type=int, default=0, metavar="N", help="passages of the feature shown as examples (default: 0)"
    )
    parser.add_argument(
        "--label",
        help="label of all examples, such as answer or refuse (default: the rows' column label, else answer)",
    )
    parser.add_argument("--no-answers", action="store_true", help="write prompts only")
    parser.add_argument(
        "--random",
        action="store_true",
        help="the control: as many requests, but the generator is told nothing about the features",
    )
    parser.add_argument("--min-relevance", type=float, metavar="R", help="only rows whose relevance is at least this")
    parser.add_argument(
        "--limit-targets", type=at_least(1), metavar="N", help="only the first N features (default: all)"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help=".jsonl file to write the examples to")
    add_generator(parser, temperature=1.0, max_new_tokens=256)


def run(args: argparse.Namespace) -> int:
    output = check_file(args.output, inputs=[args.targets, args.instructions])
    rows = read_targets(args.targets, None, args.min_relevance)
    explained = [row for row in rows if row.get("explanation")][: args.limit_targets]
    if not explained:
        raise ValueError(f"{args.targets}: no row has an explanation; `sae-posttrain data explain` writes them.")

    from ...data import SynthesisTarget, synthesize_examples

    targets = [
        SynthesisTarget(
            row["layer"],
            row["feature"],
            "" if args.random else row["explanation"],
            args.label or row.get("label") or "answer",
            tuple(row.get("passages") or ()),
        )
        for row in explained
    ]
    found = synthesize_examples(
        targets,
        generator_of(args),
        per_target=args.per_target,
        rewrites=args.rewrites,
        examples=args.show,
        answers=not args.no_answers,
        instructions=instructions_of(args),
    )
    asked = len(targets) * args.per_target * (1 + args.rewrites)
    if not found:
        raise ValueError(f"The generator wrote none of the {asked} examples; {args.output} was not written.")
    write_jsonl(
        output,
        (
            {
                "prompt": one.prompt,
                **({} if args.no_answers else {"completion": one.completion}),
                "label": one.target.label,
                "layer": one.target.layer,
                "feature": one.target.feature,
                "explanation": one.target.explanation,
                "rewrite": one.rewrite,
            }
            for one in found
        ),
    )
    print(
        f"{args.output}: {len(found)} examples for {len(targets)} features; {asked - len(found)} could not be written."
    )
    return 0
