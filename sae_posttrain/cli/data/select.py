"""`data select`: choose rows that together activate as many features as possible."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...artefacts import BENCHMARK_SELECTION
from ...texts import Row, stream_rows, stream_texts
from ..inputs import load_tokenizer
from ..output_files import check_file, check_json, replacing
from ..processes import launched_processes
from .reading import add_reading, check_fires, collect, write_values

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ...data import Selection
    from ...discovery.firing import FiringSets

HELP = "choose rows that together activate as many features as possible"

DRAWS = 100
"""Random choices of the length-matched control."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE", help="the rows to choose from")
    parser.add_argument("--n", type=int, required=True, help="number of rows to choose")
    parser.add_argument(
        "--at",
        choices=("any", "last"),
        default="any",
        help="any: read every token of a text; last: only the last (default: %(default)s)",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help=".jsonl file to write the chosen rows to")
    parser.add_argument(
        "--curve", metavar="FILE", help=".json file for the curve of coverage beside random choices; `report` shows it"
    )
    add_reading(parser)


def run(args: argparse.Namespace) -> int:
    output = check_file(args.output, inputs=[args.source])
    curve = check_json(args.curve, inputs=[args.source]) if args.curve else None

    from ...data import length_matched_coverage, redundancy, select_by_coverage

    with launched_processes() as state:
        found = collect(args, state.device, {"": args.source}, args.at)
        sets = check_fires({args.source: found[""]}, args.at)[args.source]
        chosen = select_by_coverage(sets, args.n)
        if state.is_main_process:
            _write_rows(output, args, chosen.examples)
            matched = length_matched_coverage(sets, _lengths(args), chosen.examples, draws=DRAWS)
            values = _curve(args, sets, chosen, redundancy(sets).coverage, matched)
            if curve is not None:
                write_values(curve, BENCHMARK_SELECTION, [values])
            low, high = values["matched_low"][-1], values["matched_high"][-1]
            print(
                f"{args.output}: {args.n} of {len(sets)} rows. They fire {values['chosen'][-1]:.1%} of the "
                f"{chosen.features} features that fire on any row. As many random rows fire "
                f"{values['random'][-1]:.1%} in expectation; random rows of the same lengths fire "
                f"{values['matched'][-1]:.1%} ({low:.1%} to {high:.1%} in 95% of {DRAWS} draws)."
            )
    return 0


def _write_rows(output: Path, args: argparse.Namespace, examples: Sequence[int]) -> None:
    """Write the chosen rows, best first. The file is read again, so that only these rows are held."""
    wanted = set(examples)
    kept: dict[int, Row] = {}
    with_text = (row for row in stream_rows(args.source) if str(row.get(args.column) or "").strip())
    for number, row in enumerate(islice(with_text, args.limit)):
        if number in wanted:
            kept[number] = row
    with replacing(output) as file:
        for example in examples:
            file.write(json.dumps(kept[example], ensure_ascii=False) + "\n")


def _lengths(args: argparse.Namespace) -> list[int]:
    """The number of tokens that are read of each text."""
    from ...discovery.tokens import first_tokens

    tokenizer = load_tokenizer(args.model)
    texts = islice(stream_texts(args.source, column=args.column), args.limit)
    return [len(first_tokens(tokenizer, [text], args.max_length)[0]) for text in texts]


def _curve(
    args: argparse.Namespace,
    sets: FiringSets,
    chosen: Selection,
    random: NDArray[np.float64],
    matched: NDArray[np.float64],
) -> dict[str, Any]:
    """The coverage of the first 1 … n rows, beside random choices of as many."""
    import numpy as np

    low, high = np.quantile(matched, [0.025, 0.975], axis=0)
    return {
        **{"name": Path(args.source).name, "rows": len(sets), "features": chosen.features},
        "chosen": chosen.coverage.tolist(),
        "random": random[: args.n].tolist(),
        **{"matched": matched.mean(axis=0).tolist(), "matched_low": low.tolist(), "matched_high": high.tolist()},
    }
