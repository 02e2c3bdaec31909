"""`data explain`: what the passages of each feature share, in the words of a model."""

from __future__ import annotations

import argparse
from typing import Any

from ...texts import load_texts
from ..inputs import add_dtype, at_least, load_model
from ..output_files import check_file
from .generating import add_generator, generator_of, instructions_of
from .targets import read_targets, write_jsonl

HELP = "explain features: ask a model what the passages have in common in which each feature is most active"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "targets", metavar="FILE", help="features: rows of `sae-posttrain data missing`, or a feature set"
    )
    parser.add_argument("--texts", nargs="+", required=True, metavar="FILE", help="texts to search for passages")
    parser.add_argument("--model", required=True, help="folder or hub id of the model that the SAE belongs to")
    parser.add_argument(
        "--sae", required=True, help="folder, hub id or short name (`sae-posttrain sae list`) of the SAEs"
    )
    parser.add_argument("--layer", type=int, help="only the features of this decoder block (default: all)")
    parser.add_argument(
        "--limit-targets", type=at_least(1), metavar="N", help="only the first N features (default: all)"
    )
    parser.add_argument("--column", default="text", help="column of the texts (default: %(default)s)")
    parser.add_argument("--limit", type=at_least(1), default=1000, help="rows read of each file (default: %(default)s)")
    parser.add_argument("--top", type=int, default=5, help="passages for each feature (default: %(default)s)")
    parser.add_argument("--around", type=int, default=12, help="tokens shown on each side (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="texts per forward pass (default: %(default)s)")
    parser.add_argument("--max-length", type=int, default=512, help="tokens read of each text (default: %(default)s)")
    add_dtype(parser)
    parser.add_argument(
        "--task", metavar="TEXT", help="also ask how relevant each feature is to this task, from 0 to 10"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help=".jsonl file to write the features to")
    add_generator(parser, temperature=0.0, max_new_tokens=40)


def run(args: argparse.Namespace) -> int:
    output = check_file(args.output, inputs=[args.targets, *args.texts])
    rows = read_targets(args.targets, args.layer)[: args.limit_targets]
    generate, instructions = generator_of(args), instructions_of(args)

    from ...data import explain_features, judge_relevance

    passages = _passages(args, rows)
    explanations = explain_features(passages, generate, instructions)
    judged = judge_relevance(explanations, args.task, generate, instructions) if args.task else None
    found = []
    for place, (row, own, explanation) in enumerate(zip(rows, passages, explanations, strict=True)):
        relevance = {} if judged is None else {"relevance": judged[place]}
        texts = ["".join(piece for piece, _ in one).strip() for one in own]
        found.append({**row, "explanation": explanation, **relevance, "passages": texts})
    asked = sum(bool(own) for own in passages)
    if asked and not any(explanations):
        raise ValueError(f"The generator explained none of the {asked} features; {args.output} was not written.")
    write_jsonl(output, found)
    silent = sum(not own for own in passages)
    failed = sum(one is None for one in explanations) - silent
    print(
        f"{args.output}: {len(rows) - silent - failed} of {len(rows)} features explained. {silent} fire in none of the "
        f"texts; for {failed} the generator gave no answer."
    )
    return 0


def _passages(args: argparse.Namespace, rows: list[dict[str, Any]]) -> list[list[Any]]:
    """For each row the passages that excite its feature most, as pieces with activations."""
    texts = {file: load_texts(file, column=args.column, limit=args.limit) for file in args.texts}

    from accelerate import PartialState

    from ...discovery.sources import load_saes
    from ...inspection.contexts import top_activations

    wanted: dict[int, list[int]] = {}
    for row in rows:
        features = wanted.setdefault(row["layer"], [])
        if row["feature"] not in features:
            features.append(row["feature"])
    model, tokenizer = load_model(args.model, dtype=args.dtype, device=PartialState().device)
    saes = load_saes(args.sae, list(wanted), model)
    settings = {name: getattr(args, name) for name in ("top", "around", "batch_size", "max_length")}
    found = {
        (one.layer, one.feature): [context.pieces for context in one.contexts]
        for one in top_activations(model, tokenizer, saes, wanted, texts, **settings)
    }
    return [found[row["layer"], row["feature"]] for row in rows]
