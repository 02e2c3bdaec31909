"""Benchmarks by the features of an SAE: what they share, how redundant they are, and which rows cover most.

    python recipes/benchmarks/run.py --model models/gemma3-270m-cut --sae SAES --layer 16 \
        --sets gsm8k=gsm8k.jsonl.gz theoremqa=theoremqa.jsonl.gz humaneval=humaneval.jsonl.gz --output_dir benchmarks

It runs `data overlap`, `data redundancy` and, for the first set, `data select`, and writes their files, the report page
and results.csv. Which features fire is kept in the output folder, so that a run that was killed goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from sae_posttrain.artefacts import BENCHMARK_OVERLAP, BENCHMARK_REDUNDANCY, BENCHMARK_SELECTION
from sae_posttrain.cli import main as command
from sae_posttrain.lab.shared.results import append_results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sae", required=True)
    parser.add_argument("--layer", required=True)
    parser.add_argument("--sets", nargs="+", required=True, metavar="NAME=FILE")
    parser.add_argument("--n", default="100", help="rows to select from the first set (default: %(default)s)")
    parser.add_argument("--batch_size", default="32")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--results", type=Path, help="CSV to append to (default: results.csv in output_dir)")
    args = parser.parse_args()
    folder: Path = args.output_dir
    reading = ["--model", args.model, "--sae", args.sae, "--layer", args.layer, "--batch-size", args.batch_size]
    cache = ["--cache", str(folder / "firing")]
    run("overlap", *args.sets, *reading, *cache, "--output", str(folder / "overlap.json"))
    run("redundancy", *args.sets, *reading, *cache, "--output", str(folder / "redundancy.json"))
    name, first = args.sets[0].split("=", 1)
    chosen = ["--n", args.n, "--at", "last", "--output", str(folder / "chosen.jsonl")]
    run(
        "select", first, *reading, "--cache", str(folder / "firing" / name), *chosen, "--curve", f"{folder}/select.json"
    )
    if command(["report", str(folder), "--output", str(folder / "report.html")]):
        raise SystemExit("report failed.")
    where = {"recipe": "benchmarks", "model": Path(args.model).name, "layer": args.layer}
    rows = [
        {**where, **row} for row in (*overlap_rows(folder), *redundancy_rows(folder), *selection_rows(folder, name))
    ]
    append_results(args.results or folder / "results.csv", rows, __file__)


def run(kind: str, *arguments: str) -> None:
    if command(["data", kind, *arguments]):
        raise SystemExit(f"data {kind} failed.")


def overlap_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """A row for each number of `data overlap`."""
    (values,) = read(folder / "overlap.json", BENCHMARK_OVERLAP)
    part = values["at_size"]["examples"]
    for setting, of in (("whole", values), (f"parts of {part}", values["at_size"])):
        for (row, name), (column, other) in product(enumerate(values["names"]), repeat=2):
            for metric in ("covered", "similarity"):
                yield row_of(metric, name, other, setting, of[metric][row][column])
        for row, name in enumerate(values["names"]):
            yield row_of("features", name, "", setting, of["features"][row])
            yield row_of("fires in no other", name, "", setting, of["new"][row])
    for place, step in enumerate(values["order"], start=1):
        yield row_of("features added", step["name"], "", f"place {place}", step["adds"])


def redundancy_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """A row for each number of `data redundancy`."""
    for values in read(folder / "redundancy.json", BENCHMARK_REDUNDANCY):
        for metric in ("examples", "features", "auc", "redundancy", "examples_for_90_percent"):
            yield row_of(metric, values["name"], "", "whole", values[metric])


def selection_rows(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """The coverage of the chosen rows and of random ones, at a few sizes."""
    (values,) = read(folder / "select.json", BENCHMARK_SELECTION)
    for n in (10, 20, 50, 100):
        if n <= len(values["chosen"]):
            for way in ("chosen", "random", "matched", "matched_low", "matched_high"):
                yield row_of("coverage", name, way, f"{n} rows", values[way][n - 1])


def row_of(metric: str, name: str, other: str, setting: str, value: float | None) -> dict[str, Any]:
    shown = "" if value is None else round(value, 6)
    return {"metric": metric, "benchmark": name, "other": other, "setting": setting, "value": shown}


def read(path: Path, key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))[key]
    return found


if __name__ == "__main__":
    main()
