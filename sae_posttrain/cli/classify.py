"""`sae-posttrain discover class` and `sae-posttrain classify`: find the features of classes of texts, and use them."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artefacts import CLASSES
from ..texts import Row, load_rows, load_texts
from .class_tables import print_rule
from .inputs import add_dtype, load_model, named
from .output_files import check_file, replacing
from .processes import launched_processes, shares_work

if TYPE_CHECKING:
    from ..data.class_results import LabelledTexts
    from ..data.classification import Verdict
    from ..discovery.classes import ClassDiscovery


def add_discover_class(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `discover class`."""
    parser = kinds.add_parser("class", help="find features that tell a class of texts, such as toxic ones")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--rows", metavar="FILE", help="labelled rows; see --label-column")
    source.add_argument(
        "--texts", nargs="+", metavar="CLASS=SOURCE", help="a source for each class, such as toxic=a.txt clean=b.txt"
    )
    parser.add_argument(
        "--targets", nargs="+", metavar="CLASS", help="classes to find features for (default: all classes)"
    )
    parser.add_argument(
        "--test",
        nargs="+",
        default=[],
        metavar="NAME=FILE",
        help="labelled rows to judge the features on, such as en=en.jsonl de=de.jsonl",
    )
    _add_rule(parser)
    _add_results(parser)
    _add_reading(parser)
    parser.set_defaults(run=run_discover_class)


def _add_rule(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[1, 2, 5, 10],
        help="numbers of features to try; the best on held-out texts is taken (default: 1 2 5 10)",
    )
    parser.add_argument(
        "--combine",
        choices=("layer", "layers"),
        default="layer",
        help="layer: the best features of one layer; layers: the best feature of each of several layers "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--choose-by",
        choices=("f1", "balanced_accuracy"),
        default="f1",
        help="what decides on the number of features; F1 favours many features, since on balanced labels it is 0.667 "
        "for a rule that says yes to everything (default: %(default)s)",
    )
    parser.add_argument(
        "--select",
        choices=("firing rate", "random"),
        default="firing rate",
        help="random: as a control, draw as many features among those that fire at all (default: %(default)s)",
    )
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="share of each class on which the number of features is chosen (default: %(default)s)",
    )


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--draws", type=int, default=10, help="random parts for each point of the learning curve (default: %(default)s)"
    )
    parser.add_argument(
        "--dense",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with --test: also fit a difference of means and a logistic regression on mean residuals "
        "(default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices (default: %(default)s)")
    parser.add_argument("--layers", type=int, nargs="+", required=True, help="0-based decoder blocks to choose from")
    parser.add_argument(
        "--sae", required=True, help="folder, hub id or short name (`sae-posttrain sae list`) of the SAEs"
    )
    parser.add_argument("--cache", metavar="FOLDER", help="folder to cache which features fire")
    parser.add_argument(
        "--output", required=True, help=f"the .safetensors file to write; the results go beside it ({CLASSES})"
    )


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("classify", help="classify texts by features, and say which feature and token decided")
    parser.add_argument("source", metavar="FILE", help="the texts")
    parser.add_argument("--features", required=True, help="the feature set of `discover class`: file, folder or hub id")
    parser.add_argument(
        "--sae",
        help="SAEs that decide where a feature fires: folder, hub id or short name (default: the thresholds of the "
        "feature set decide)",
    )
    parser.add_argument("--output", metavar="FILE", help=".jsonl file for the rows with their classes and evidence")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _add_reading(parser)
    parser.set_defaults(run=run_classify)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--label-column", default="label", help="column of the labels (default: %(default)s)")
    parser.add_argument("--column", default="text", help="column of the texts (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="rows read of each source (default: all)")
    parser.add_argument("--max-length", type=int, default=512, help="tokens read of each text (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="texts per forward pass (default: %(default)s)")
    add_dtype(parser)
    shares_work(parser)


def run_discover_class(args: argparse.Namespace) -> int:
    output = check_file(args.output)
    texts = _texts_by_class(args)
    tests = _tests(args, args.targets or list(texts))

    from ..data.class_results import judge_rules, token_counts_of
    from ..discovery.classes import discover_class_features
    from ..sae import load_sae

    saes = {layer: load_sae(args.sae, layer) for layer in args.layers}
    reading: dict[str, Any] = {"batch_size": args.batch_size, "max_length": args.max_length}
    names = ("layers", "targets", "sizes", "combine", "choose_by", "select", "held_out")
    options = {name: getattr(args, name) for name in names}
    curve = {name: getattr(args, name) for name in ("draws", "sizes", "combine", "choose_by", "held_out", "seed")}
    flat = [text for members in texts.values() for text in members]
    with launched_processes() as state:
        model, tokenizer = load_model(args.model, dtype=args.dtype, device=state.device)
        cache = Path(args.cache) / "discovery" if args.cache else None
        found = discover_class_features(
            model, tokenizer, saes, texts, seed=args.seed, cache=cache, **options, **reading
        )
        results = judge_rules(
            *(model, tokenizer, saes, found, flat, tests),
            dense=args.dense and bool(tests),
            curve=curve if args.draws and args.select != "random" else None,
            cache=args.cache,
            **reading,
        )
        tokens = token_counts_of(model, tokenizer, saes, found, flat, **reading)
        if state.is_main_process:
            _write_classes(output, found, results, tokens)
    return 0


def _write_classes(output: Path, found: ClassDiscovery, results: Mapping[str, Any], tokens: Mapping[Any, Any]) -> None:
    """Write the features and the results beside them, and print the rules."""
    from ..data.class_results import discovery_to_json

    path = found.features.save(output)
    beside = path.with_suffix(CLASSES)
    with replacing(beside) as file:
        file.write(json.dumps(discovery_to_json(found, results, tokens), ensure_ascii=False) + "\n")
    for rule in found.rules:
        print_rule(rule, results[rule.target])
    print(f"Wrote {path} and {beside}.")


def run_classify(args: argparse.Namespace) -> int:
    output = check_file(args.output, inputs=[args.source, args.features]) if args.output else None
    rows = _rows_with_text(args.source, args)

    from ..data.classification import classify

    texts = [row[args.column] for row in rows]
    how = {"sae": args.sae, "batch_size": args.batch_size, "max_length": args.max_length}
    with launched_processes() as state:
        model, tokenizer = load_model(args.model, dtype=args.dtype, device=state.device)
        verdicts = classify(model, tokenizer, args.features, texts, **how)
        if state.is_main_process:
            _tell(rows, verdicts, args, output)
    return 0


def _tell(rows: Sequence[Row], verdicts: Sequence[Verdict], args: argparse.Namespace, output: Path | None) -> None:
    """Write the verdicts, or print them, and print a summary."""
    if output is not None:
        with replacing(output) as file:
            for row, verdict in zip(rows, verdicts, strict=True):
                file.write(json.dumps({**row, **verdict.to_dict()}, ensure_ascii=False) + "\n")
    summary = _summary(rows, verdicts, args)
    if args.json:
        print(json.dumps(summary))
        return
    if output is None:
        for number, verdict in enumerate(verdicts, start=1):
            because = "; ".join(
                f"{e.target}: layer {e.layer} feature {e.feature} at {e.token!r}" for e in verdict.evidence
            )
            print(f"row {number}: {because or 'no class'}")
    _print_summary(summary)
    if output is not None:
        print(f"Wrote {output}.")


def _summary(rows: Sequence[Row], verdicts: Sequence[Verdict], args: argparse.Namespace) -> dict[str, Any]:
    """How many texts of each class were found; how well, if the rows have labels of these classes."""
    from ..feature_set import FeatureSet
    from ..metrics.detection import Detection

    features = FeatureSet.of(args.features)
    counts = Counter(target for verdict in verdicts for target in verdict.targets)
    summary: dict[str, Any] = {"texts": len(rows), "classes": {name: counts[name] for name in features.targets}}
    labels = [str(row.get(args.label_column)) for row in rows]
    known = [name for name in features.targets if name in labels]
    summary["results"] = {
        name: Detection.of(
            [name in verdict.targets for verdict in verdicts], [label == name for label in labels]
        ).to_dict()
        for name in known
    }
    return summary


def _print_summary(summary: dict[str, Any]) -> None:
    for name, number in summary["classes"].items():
        print(f"{name}: {number} of {summary['texts']} texts")
    for name, one in summary["results"].items():
        print(
            f"{name}: F1 {one['f1']:.3f} ({one['low']:.3f} to {one['high']:.3f}), precision {one['precision']:.3f}, "
            f"recall {one['recall']:.3f}"
        )


def _texts_by_class(args: argparse.Namespace) -> dict[str, list[str]]:
    if args.texts:
        sources = named(args.texts)
        return {name: load_texts(file, column=args.column, limit=args.limit) for name, file in sources.items()}
    labelled = _labelled(args.rows, args)
    texts: dict[str, list[str]] = {}
    for text, label in zip(labelled.texts, labelled.labels, strict=True):
        texts.setdefault(label, []).append(text)
    return texts


def _tests(args: argparse.Namespace, targets: Sequence[str]) -> dict[str, LabelledTexts]:
    from ..data.class_results import check_tests

    tests = {name: _labelled(file, args) for name, file in named(args.test).items()}
    check_tests(tests, targets)
    return tests


def _labelled(source: str, args: argparse.Namespace) -> LabelledTexts:
    from ..data.class_results import LabelledTexts

    rows = _rows_with_text(source, args)
    for number, row in enumerate(rows, start=1):
        label = row.get(args.label_column)
        if label in (None, ""):
            raise ValueError(
                f"{source}, row {number}: no label in column {args.label_column!r}; the columns present are "
                f"{', '.join(map(repr, row))}. Leave out rows without a label, or name the column with --label-column."
            )
        if not isinstance(label, str | int | float):
            raise ValueError(
                f"{source}, row {number}: column {args.label_column!r} holds a {type(label).__name__}; expected one "
                "label per row, a text or a number."
            )
    return LabelledTexts(tuple(row[args.column] for row in rows), tuple(str(row[args.label_column]) for row in rows))


def _rows_with_text(source: str, args: argparse.Namespace) -> list[Row]:
    rows = load_rows(source, limit=args.limit)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get(args.column), str):
            raise ValueError(
                f"{source}, row {number}: no text in column {args.column!r}; the columns present are "
                f"{', '.join(map(repr, row))}. Name the column with --column."
            )
    return rows
