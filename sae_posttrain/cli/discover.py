"""`sae-posttrain discover`: find features with a model, its SAE and texts, and write a feature set."""

from __future__ import annotations

import argparse
from typing import Any

from ..languages import get_language
from ..texts import load_texts
from . import classify, discover_contrast, discover_repetition
from .discovery_run import add_discovery_options, discovery_run
from .inputs import load_tokenizer
from .output_files import check_file
from .wording import option


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("discover", help="find features for training and steering, or count tokens")
    kinds = parser.add_subparsers(required=True, metavar="kind")
    language = kinds.add_parser(
        "language", help="find features that are more active in one language than in the others"
    )
    language.add_argument(
        "--texts",
        nargs="+",
        required=True,
        metavar="CODE=SOURCE",
        help="texts per language, such as zh=zh.txt en=en.jsonl.gz ru=owner/dataset; about 100 each",
    )
    language.add_argument("--targets", nargs="+", help="languages to find features for (default: all)")
    by = "by the mean activation in the language minus that in the others"
    add_discovery_options(language, select="monolinguality", by=by, per="language and layer", max_length=512)
    language.add_argument(
        "--max-elsewhere",
        type=float,
        metavar="SHARE",
        help="leave out features that fire on more than this share of the tokens of any other language, such as 0.02 "
        "(default: no limit)",
    )
    language.set_defaults(run=run_language)
    classify.add_discover_class(kinds)
    _add_tokens(
        kinds.add_parser("tokens", help="count the tokens of languages that share a script, for SASFT's token term")
    )
    discover_repetition.add_parser(kinds)
    discover_contrast.add_parser(kinds)


def _add_tokens(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--texts",
        nargs="+",
        required=True,
        metavar="CODE=SOURCE",
        help="texts per language, such as de=de.txt en=en.jsonl.gz; at least 1,000 paragraphs each",
    )
    parser.add_argument("--model", required=True, help="folder or hub id; only its tokenizer is read")
    parser.add_argument("--column", default="text", help="column of the texts (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=10000, help="rows read of each source (default: %(default)s)")
    parser.add_argument("--output", required=True, help="the .safetensors file to write")
    parser.set_defaults(run=run_tokens)


def run_language(args: argparse.Namespace) -> int:
    check_file(args.output)
    texts = _texts_by_language(args)
    with discovery_run(args) as setting:
        from ..discovery import discover_language_features

        assert setting.saes is not None
        features = discover_language_features(
            setting.model,
            setting.tokenizer,
            setting.saes,
            texts,
            targets=args.targets,
            max_elsewhere=args.max_elsewhere,
            **setting.options,
        )
        setting.write(features, "Mean activation of each feature in each language:")
    return 0


def run_tokens(args: argparse.Namespace) -> int:
    check_file(args.output)
    texts = _texts_by_language(args)
    from ..token_counts import count_tokens

    counts = count_tokens(load_tokenizer(args.model), texts)
    print("Number of tokens that belong to the row's language rather than the column's (weight of at least 0.5):\n")
    print(" " * 8 + "".join(f"{code:>10}" for code in counts.languages))
    for target in counts.languages:
        cells = (
            "" if target == other else str(int((counts.membership(target, other) >= 0.5).sum()))
            for other in counts.languages
        )
        print(f"{target:<8}" + "".join(f"{cell:>10}" for cell in cells))
    print(f"\nWrote {counts.save(args.output)}")
    return 0


def _texts_by_language(args: argparse.Namespace) -> dict[str, Any]:
    """Language code → texts, of items such as zh=zh.txt."""
    texts = {}
    for item in args.texts:
        code, separator, source = item.partition("=")
        if not separator:
            raise ValueError(f"--texts {item!r}: expected CODE=SOURCE, such as zh=zh.txt.")
        with option(f"--texts {item!r}"):
            code = get_language(code).code
        if code in texts:
            raise ValueError(f"--texts names {code} twice; put its texts into one file.")
        texts[code] = load_texts(source, column=args.column, limit=args.limit)
    return texts
