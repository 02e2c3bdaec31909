"""`data overlap`: how much of each benchmark the others cover."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from ...artefacts import BENCHMARK_OVERLAP
from ..inputs import named
from ..output_files import check_json
from ..processes import launched_processes
from .reading import add_sets, check_fires, collect, write_values
from .scores import scores_by_benchmark

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ...data import Overlap
    from ...discovery.firing import FiringSets

HELP = "share of each benchmark's features that the other benchmarks also activate"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_sets(parser, "two benchmarks or more, such as gsm8k=gsm8k.jsonl math=math.jsonl")
    parser.add_argument(
        "--scores",
        metavar="FILE",
        help="also print the correlation of benchmarks over models; the file has rows with model, benchmark and score",
    )
    parser.add_argument(
        "--control",
        metavar="NAME",
        help="benchmark of general ability in --scores, such as mmlu, that the correlations control for",
    )


def run(args: argparse.Namespace) -> int:
    output = check_json(args.output) if args.output else None
    sources = named(args.sets)
    if len(sources) < 2:
        raise ValueError("Give at least two benchmarks, each as NAME=FILE.")
    if args.control and not args.scores:
        raise ValueError("--control names a benchmark in the file of --scores: give --scores too.")
    scores = scores_by_benchmark(args.scores, sources, args.control) if args.scores else {}

    with launched_processes() as state:
        sets = check_fires(collect(args, state.device, sources, "last"), "last")
        if state.is_main_process:
            values = _overlap_of(sets, _correlations(scores, list(sets), args.control))
            print(json.dumps(values)) if args.json else _print_overlap(values, args.control)
            if output is not None:
                write_values(output, BENCHMARK_OVERLAP, [values])
    return 0


def _overlap_of(sets: Mapping[str, FiringSets], correlations: Mapping[str, float | None]) -> dict[str, Any]:
    from ...data import expected_overlap, order_of_benchmarks, overlap
    from ...data.overlap import new_examples

    found = overlap(sets)
    # Two disjoint parts of the smallest benchmark, so that the diagonal can be measured.
    part = max(1, min(map(len, sets.values())) // 2)
    order = order_of_benchmarks(sets)
    values = {
        **{"names": found.names, "examples": [len(one) for one in sets.values()], **_matrices(found)},
        "at_size": {"examples": part, **_matrices(expected_overlap(sets, part))},
        "order": [
            {"name": found.names[place], "adds": gained}
            for place, gained in zip(order.examples, order.gained, strict=True)
        ],
        "new_examples": {
            name: [{"example": example + 1, "features": number} for example, number in new_examples(sets, name)]
            for name in found.names
        },
        "correlations": correlations,
    }
    if len(correlations) > 2:
        values["agreement"] = _agreement(found, correlations)
    return values


def _matrices(found: Overlap) -> dict[str, Any]:
    return {
        **{"features": found.sizes.tolist(), "covered": _rows(found.covered)},
        **{"similarity": _rows(found.similarity), "new": found.new.tolist()},
    }


def _rows(values_BB: NDArray[np.float64]) -> list[list[float | None]]:
    return [[_known(value) for value in row] for row in values_BB.tolist()]


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return None if value != value else value


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _correlations(
    scores: Mapping[str, list[float]], names: Sequence[str], control: str | None
) -> dict[str, float | None]:
    """Pair of benchmarks → the correlation of their scores over models (with `control`, Eq. 12)."""
    from ...data import partial_correlation

    return {
        f"{one} {other}": (
            _known(partial_correlation(scores[one], scores[other], scores[control]))
            if control
            else _pearson(scores[one], scores[other])
        )
        for one, other in combinations(names if scores else [], 2)
    }


def _agreement(found: Overlap, correlations: Mapping[str, float | None]) -> dict[str, float | None]:
    """How well the overlap of features (Eq. 11) tells the correlation of scores, over the pairs of benchmarks."""
    from ...data.overlap import rank_correlation

    places = combinations(range(len(found.names)), 2)
    pairs = [
        (float(found.similarity[place]), value)
        for place, value in zip(places, correlations.values(), strict=True)
        if value is not None
    ]
    shared, scored = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return {"pearson": _pearson(shared, scored), "spearman": _known(rank_correlation(shared, scored))}


def _pearson(first: Sequence[float], second: Sequence[float]) -> float | None:
    """None where one side does not vary."""
    import numpy as np

    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _print_overlap(values: Mapping[str, Any], control: str | None) -> None:
    names, size = values["names"], values["at_size"]
    width = max(len(name) for name in names) + 2
    print("Share of the row's features that fire in the column's benchmark:")
    _print_matrix(names, width, values["features"], values["covered"])
    print(
        f"\nThe same for random parts of {size['examples']} examples of each, in expectation. The diagonal compares two"
    )
    print("parts of one benchmark without a common example:")
    _print_matrix(names, width, size["features"], size["covered"])
    print()
    for row, name in enumerate(names):
        share, other = max(
            (values["covered"][row][column], names[column]) for column in range(len(names)) if column != row
        )
        print(
            f"{name}: {other} covers most of its features, {share:.1%}; {values['new'][row]:.1%} fire in no other "
            "benchmark."
        )
        if rows := [str(one["example"]) for one in values["new_examples"][name]]:
            print(
                f"{name}: most of these features fire in examples {', '.join(rows)} (numbered without the rows that "
                "have no text)."
            )
    total = sum(step["adds"] for step in values["order"])
    kept = 0
    print("To keep, in this order, with the share of all features that fire in those up to here:")
    for step in values["order"]:
        kept += step["adds"]
        print(f"  {step['name'].ljust(width)}{kept / max(1, total):7.1%}")
    for pair, value in values["correlations"].items():
        print(f"{pair}: correlation over models {_shown(value)}" + (f", controlling for {control}" if control else ""))
    if "agreement" in values:
        one = values["agreement"]
        print(
            f"Overlap of features and correlation of scores, over pairs: Pearson {_shown(one['pearson'])}, Spearman "
            f"{_shown(one['spearman'])}."
        )


def _print_matrix(names: Sequence[str], width: int, sizes: Sequence[float], covered: Sequence[Sequence[Any]]) -> None:
    print(" " * width + "features".rjust(10) + "".join(name.rjust(max(width, 8)) for name in names))
    for name, size, row in zip(names, sizes, covered, strict=True):
        cells = map(_shown, row)
        print(name.ljust(width) + f"{size:10.0f}" + "".join(cell.rjust(max(width, 8)) for cell in cells))
