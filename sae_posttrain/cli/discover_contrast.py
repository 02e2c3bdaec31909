"""`sae-posttrain discover contrast`: find the features of any concept from texts with it and texts without it."""

from __future__ import annotations

import argparse

from ..texts import load_texts
from .discovery_run import add_discovery_options, discovery_run
from .output_files import check_file


def add_parser(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = kinds.add_parser("contrast", help="find features of any concept, from texts with it and texts without it")
    parser.add_argument("--positive", required=True, metavar="SOURCE", help="texts that show the concept; about 100")
    parser.add_argument("--negative", required=True, metavar="SOURCE", help="texts that do not; about 100")
    parser.add_argument(
        "--name",
        default="positive",
        help="what the features stand for, and the label of such rows in training by label (default: %(default)s)",
    )
    parser.add_argument(
        "--negative-name", default="negative", metavar="NAME", help="label of the other texts (default: %(default)s)"
    )
    parser.add_argument(
        "--by",
        choices=("activation", "firing"),
        default="activation",
        help="activation: difference of the mean activations over tokens; firing: difference of the shares of texts on "
        "which a feature fires (default: %(default)s)",
    )
    dense = "the mean residual of the positive texts minus that of the negative ones"
    by = "by the difference that --by names"
    add_discovery_options(parser, select="contrast", by=by, per="layer", max_length=512, dense=dense)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    check_file(args.output)
    if bool(args.sae) == (args.select == "dense"):
        raise ValueError("--select dense takes no --sae." if args.sae else f"--select {args.select} needs --sae.")
    positive, negative = (
        load_texts(source, column=args.column, limit=args.limit) for source in (args.positive, args.negative)
    )
    with discovery_run(args) as found:
        from ..discovery import discover_contrast_features

        features = discover_contrast_features(
            *(found.model, found.tokenizer, found.saes, positive, negative),
            name=args.name,
            negative_name=args.negative_name,
            by=args.by,
            **found.options,
        )
        found.write(features, f"Mean activation of each feature in {args.name} and {args.negative_name} texts:")
    return 0
