"""`sae-posttrain data`: analyse and select data sets by the SAE features that they activate."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import combinations, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..texts import load_rows, stream_texts
from .inputs import add_dtype, load_model
from .output_files import check_file, replacing

if TYPE_CHECKING:
    from ..data import Overlap
    from ..discovery.firing import FiringSets

SHARES = (
    0.02,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
)  # sizes of the subsets whose model ranking is compared with the full benchmark's


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("data", help="analyse data sets by their SAE features: redundancy, overlap, selection")
    kinds = parser.add_subparsers(required=True, metavar="kind")
    redundancy = kinds.add_parser(
        "redundancy", help="share of a benchmark's features that a subset of its rows already activates"
    )
    _add_sets(redundancy, "benchmarks, such as gsm8k=gsm8k.jsonl")
    redundancy.add_argument(
        "--scores",
        nargs="+",
        default=[],
        metavar="NAME=FILE",
        help="also print how well a part ranks models; the file has rows with model, example (row number, from 1) "
        "and score",
    )
    redundancy.set_defaults(run=run_redundancy)
    overlap = kinds.add_parser(
        "overlap", help="share of each benchmark's features that the other benchmarks also activate"
    )
    _add_sets(overlap, "two benchmarks or more, such as gsm8k=gsm8k.jsonl math=math.jsonl")
    overlap.add_argument(
        "--scores",
        metavar="FILE",
        help="also print the correlation of benchmarks over models; the file has rows with model, benchmark and score",
    )
    overlap.add_argument(
        "--control",
        metavar="NAME",
        help="benchmark of general ability in --scores, such as mmlu, that the correlations control for",
    )
    overlap.set_defaults(run=run_overlap)
    select = kinds.add_parser("select", help="choose rows that together activate as many features as possible")
    select.add_argument("source", metavar="FILE", help="the rows to choose from")
    select.add_argument("--n", type=int, required=True, help="number of rows to choose")
    select.add_argument(
        "--at",
        choices=("any", "last"),
        default="any",
        help="any: read every token of a text; last: only the last (default: %(default)s)",
    )
    select.add_argument("--output", required=True, metavar="FILE", help=".jsonl file to write the chosen rows to")
    _add_reading(select)
    select.set_defaults(run=run_data_select)


def _add_sets(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("sets", nargs="+", metavar="NAME=FILE", help=what)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _add_reading(parser)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--sae", required=True, help="folder, hub id or short name (see `sae list`) of the SAEs")
    parser.add_argument("--layer", type=int, required=True, help="0-based decoder block")
    parser.add_argument("--column", default="text", help="column of the texts (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="rows to read of each source (default: all)")
    parser.add_argument("--batch-size", type=int, default=8, help="texts per forward pass (default: %(default)s)")
    parser.add_argument("--max-length", type=int, default=512, help="tokens read of each text (default: %(default)s)")
    parser.add_argument(
        "--cache",
        metavar="FOLDER",
        help="folder to cache which features are active, so that a second run does not need the model",
    )
    add_dtype(parser)


def run_redundancy(args: argparse.Namespace) -> int:
    sources = _named(args.sets)
    scores = {name: _scores_by_example(file) for name, file in _named(args.scores).items()}
    if unknown := scores.keys() - sources.keys():
        raise ValueError(f"--scores names {', '.join(sorted(unknown))}; expected one of {', '.join(sources)}.")

    from ..data import ranking_agreement, redundancy

    with _processes() as state:
        found = {}
        for name, sets in _collect(args, state.device, sources, "last").items():
            one = redundancy(sets)
            found[name] = {
                "examples": one.examples,
                "features": one.features,
                "auc": one.auc,
                "redundancy": one.redundancy,
                "examples_for_90_percent": one.examples_for(0.9),
                "coverage": one.coverage.tolist(),
            }
            if name in scores:
                sizes = sorted({max(1, round(share * scores[name].shape[1])) for share in SHARES})
                agreement = ranking_agreement(scores[name], sizes).tolist()
                found[name]["ranking_agreement"] = dict(zip(map(str, sizes), agreement, strict=True))
        if state.is_main_process:
            print(json.dumps(found)) if args.json else _print_redundancy(found)
    return 0


def _print_redundancy(found: Mapping[str, Mapping[str, Any]]) -> None:
    print(f"{'benchmark':<20} examples  features    AUC  redundancy  examples for 90%")
    for name, row in found.items():
        print(
            f"{name:<20} {row['examples']:8} {row['features']:9} {row['auc']:6.3f} {row['redundancy']:11.3f} "
            f"{row['examples_for_90_percent']:17}"
        )
        for size, tau in row.get("ranking_agreement", {}).items():
            print(f"{'':<20} a random part of {size} examples ranks models with Kendall tau {tau:.3f}")


def run_overlap(args: argparse.Namespace) -> int:
    sources = _named(args.sets)
    if len(sources) < 2:
        raise ValueError("Give at least two benchmarks, each as NAME=FILE.")
    if args.control and not args.scores:
        raise ValueError("--control names a benchmark in the file of --scores: give --scores too.")
    scores = _scores_by_benchmark(args.scores, sources, args.control) if args.scores else {}

    from ..data import overlap, partial_correlation

    with _processes() as state:
        found = overlap(_collect(args, state.device, sources, "last"))
        if state.is_main_process:
            correlations = {
                f"{one} {other}": (
                    partial_correlation(scores[one], scores[other], scores[args.control])
                    if args.control
                    else _correlation(scores[one], scores[other])
                )
                for one, other in combinations(scores and found.names, 2)
            }
            _print_json(found, correlations) if args.json else _print_overlap(found, correlations, args.control)
    return 0


def _print_json(found: Overlap, correlations: Mapping[str, float]) -> None:
    values = {"names": found.names, "features": found.sizes.tolist(), "covered": found.covered.tolist()}
    print(json.dumps({**values, "similarity": found.similarity.tolist(), "correlations": correlations}))


def _print_overlap(found: Overlap, correlations: Mapping[str, float], control: str | None) -> None:
    width = max(len(name) for name in found.names) + 2
    print("Share of the row's features that fire in the column's benchmark:")
    print(" " * width + "features".rjust(10) + "".join(name.rjust(width) for name in found.names))
    for name, size, row in zip(found.names, found.sizes, found.covered, strict=True):
        print(name.ljust(width) + f"{size:10}" + "".join(f"{share:{width}.3f}" for share in row))
    print()
    for name in found.names:
        other, share = found.most_covered(name)
        print(f"{name}: {other} covers most of its features, {share:.1%}; {1 - share:.1%} do not fire there.")
    for pair, value in correlations.items():
        print(f"{pair}: correlation over models {value:.3f}" + (f", controlling for {control}" if control else ""))


def run_data_select(args: argparse.Namespace) -> int:
    output = check_file(args.output)
    rows = [row for row in load_rows(args.source) if str(row.get(args.column) or "").strip()][: args.limit]

    from ..data import select_by_coverage

    with _processes() as state:
        sets = _collect(args, state.device, {"": args.source}, args.at)[""]
        chosen = select_by_coverage(sets, args.n)
        if state.is_main_process:
            with replacing(output) as file:
                for example in chosen.examples:
                    file.write(json.dumps(rows[example], ensure_ascii=False) + "\n")
            print(
                f"{args.output}: {args.n} of {len(sets)} rows. They fire {chosen.coverage[-1]:.1%} of the "
                f"{chosen.features} features that fire on any row."
            )
    return 0


def _collect(args: argparse.Namespace, device: Any, sources: Mapping[str, str], at: Any) -> dict[str, FiringSets]:
    from ..discovery.firing import collect_firing

    model, tokenizer = load_model(args.model, dtype=args.dtype, device=device)
    return {
        name: collect_firing(
            model,
            tokenizer,
            args.sae,
            islice(stream_texts(source, column=args.column), args.limit),
            layers=[args.layer],
            at=at,
            cache=Path(args.cache) / name if args.cache else None,
            batch_size=args.batch_size,
            max_length=args.max_length,
        )[args.layer]
        for name, source in sources.items()
    }


@contextmanager
def _processes() -> Iterator[Any]:
    """The processes of `accelerate launch`; the main one prints and writes."""
    from accelerate import Accelerator

    state = Accelerator()  # not PartialState: only this hears `accelerate launch --cpu`
    yield state
    state.wait_for_everyone()  # see cli/sft.py: the group must be idle when it goes
    state.end_training()


def _named(items: list[str]) -> dict[str, str]:
    named: dict[str, str] = {}
    for item in items:
        name, separator, source = item.partition("=")
        if not separator or not name or name in named:
            raise ValueError(f"{item!r}: expected NAME=FILE, each name once, such as gsm8k=gsm8k.jsonl.")
        named[name] = source
    return named


def _scores_by_example(file: str) -> Any:
    """`(M, E)` scores, of the examples that are numbered from 1."""
    import numpy as np

    table = _table(file, "example")
    examples = sorted({example for row in table.values() for example in row}, key=float)
    wrong = [model for model, row in table.items() if len(row) != len(examples)]
    if wrong:
        raise ValueError(
            f"{file}: {wrong[0]} has scores for {len(table[wrong[0]])} of {len(examples)} examples; expected all."
        )
    return np.array([[row[example] for example in examples] for row in table.values()])


def _scores_by_benchmark(file: str, sources: Mapping[str, str], control: str | None) -> dict[str, list[float]]:
    table = _table(file, "benchmark")
    wanted = [*sources, *([control] if control else [])]
    for model, row in table.items():
        if missing := [name for name in wanted if name not in row]:
            raise ValueError(f"{file}: {model} has no score for {missing[0]}, only for {', '.join(row)}.")
    return {name: [row[name] for row in table.values()] for name in wanted}


def _table(file: str, column: str) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for number, row in enumerate(load_rows(file), start=1):
        try:
            table.setdefault(str(row["model"]), {})[str(row[column])] = float(row["score"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file}, row {number}: expected the columns model, {column} and score (a number), got {row}."
            ) from error
    return table


def _correlation(first: list[float], second: list[float]) -> float:
    import numpy as np

    return float(np.corrcoef(first, second)[0, 1])
