"""`sae-posttrain discover`: find features with a model, its SAE and texts, and write a feature set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ..artefacts import LOOP_SAMPLE
from ..languages import get_language
from ..texts import load_rows, load_texts
from . import classify, discover_contrast
from .discovery_run import add_discovery_options, discovery_run
from .engines import add_shape, answer_shape
from .inputs import add_chat, add_loops, loop_settings, read_rows, uses_chat
from .output_files import check_file
from .wording import option

_DENSE = "the mean residual in a loop's last period minus that in its first"


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
    repetition = kinds.add_parser("repetition", help="find features whose activation grows while a text repeats itself")
    source = repetition.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--prompts",
        metavar="FILE",
        help="file whose rows have a prompt (text or messages), from which the model is sampled until it loops",
    )
    source.add_argument(
        "--texts",
        metavar="SOURCE",
        help="instead of --prompts: texts in which the model loops, such as the .loops.jsonl of an earlier call",
    )
    by = "by how much the mean activation grows from a loop's first period to its last"
    add_discovery_options(repetition, select="contrast", by=by, per="layer", max_length=2048, dense=_DENSE)
    _add_loops(repetition.add_argument_group("loops"))
    repetition.set_defaults(run=run_repetition)
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


def _add_loops(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--loops", type=int, default=32, help="number of loops to sample (default: %(default)s)")
    group.add_argument(
        "--max-new-tokens", type=int, default=512, help="token limit of each sampled response (default: %(default)s)"
    )
    group.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="temperature; 0 is greedy, which loops most (default: %(default)s)",
    )
    add_shape(group)
    add_chat(group)
    add_loops(group, tokens=True)


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
    from transformers import AutoTokenizer

    from ..token_counts import count_tokens

    counts = count_tokens(AutoTokenizer.from_pretrained(args.model), texts)
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


def run_repetition(args: argparse.Namespace) -> int:
    check_file(args.output)
    if bool(args.sae) == (args.select == "dense"):
        raise ValueError("--select dense takes no --sae." if args.sae else f"--select {args.select} needs --sae.")
    texts: Sequence[str | list[int]] = _looping_texts(args) if args.texts else []
    prompts = [row["prompt"] for row in read_rows(args.prompts, "prompt", args.limit)] if args.prompts else []
    loops = loop_settings(args, tokens=True)
    with discovery_run(args) as setting:
        from ..discovery import discover_repetition_features, sample_loops
        from ..sampling import SamplingSettings

        if prompts:
            sample = sample_loops(
                setting.model,
                setting.tokenizer,
                prompts,
                loops=args.loops,
                sampling=SamplingSettings(
                    args.temperature, 1.0, args.max_new_tokens, seed=args.seed, **answer_shape(args)
                ),
                chat=uses_chat(args, setting.tokenizer),
                batch_size=args.batch_size,
                loop_settings=loops,
            )
            texts = sample.texts
            setting.print(f"Found {sample}; the file has {len(prompts)} prompts.")
            kept = setting.keep_loops(texts, len(sample.looped))
            setting.print(f"Wrote them to {kept}. Give --texts {kept} to discover again without sampling.\n")
        features = discover_repetition_features(
            setting.model, setting.tokenizer, setting.saes, texts, loop_settings=loops, **setting.options
        )
        setting.write(features, "Mean activation of each feature, by place in a loop and in ordinary text:")
    return 0


def _looping_texts(args: argparse.Namespace) -> Sequence[str | list[int]]:
    """The token ids of a .loops.jsonl file, so that the model reads the exact tokens it sampled; else texts."""
    rows = load_rows(args.texts) if args.texts.endswith(LOOP_SAMPLE) else []
    if rows and all(isinstance(row.get("ids"), list) for row in rows):
        return [row["ids"] for row in rows[: args.limit]]
    return load_texts(args.texts, column=args.column, limit=args.limit)
