"""Diagnose the loops of a model: some answers that loop early, as many that do not, and the proof.

    python recipes/diagnose/run.py --model models/smollm2-135m --sae saes/smollm2-135m --layers 12 \
        --cases cases.jsonl --output_dir diagnosis

`cases.jsonl` is what `measure repetition --output` writes. The script chooses cases, runs `diagnose` and `report`, and
writes results.csv. A diagnosis that the output folder already holds is not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_posttrain.artefacts import DIAGNOSIS
from sae_posttrain.cli import main as command
from sae_posttrain.cli.diagnose import NOT_PROVED
from sae_posttrain.lab.shared.results import append_results
from sae_posttrain.texts import load_rows


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    folder: Path = args.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    cases, found = folder / "cases.jsonl", folder / "diagnosis.json"
    rows = choose_cases(load_rows(args.cases), args.number, args.latest)
    cases.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    if not found.exists():
        reading = ["--model", args.model, "--sae", args.sae, "--layers", *map(str, args.layers), "--dtype", "float32"]
        trials = ["--top", str(args.top), "--limit", str(args.number), "--controls", str(args.controls)]
        length = ["--max-new-tokens", str(args.max_new_tokens), "--answers-at-once", "120"]
        code = command(["diagnose", *reading, *trials, *length, "--cases", str(cases), "--output", str(found)])
        if code not in (0, NOT_PROVED):
            raise SystemExit("diagnose failed.")
    if command(["report", str(folder), "--output", str(folder / "report.html")]):
        raise SystemExit("report failed.")
    diagnosis = json.loads(found.read_text(encoding="utf-8"))[DIAGNOSIS]
    append_results(args.results or folder / "results.csv", list(result_rows(diagnosis)), __file__)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--sae", required=True)
    parser.add_argument("--layers", type=int, nargs="+", required=True)
    parser.add_argument("--cases", required=True, help="what `measure repetition --output` wrote")
    parser.add_argument(
        "--number", type=int, default=10, help="answers with a loop, and without (default: %(default)s)"
    )
    parser.add_argument(
        "--latest", type=int, default=150, help="a chosen loop begins before this character (default: %(default)s)"
    )
    parser.add_argument("--top", type=int, default=2, help="suspected features per layer (default: %(default)s)")
    parser.add_argument("--controls", type=int, default=1, help="random directions of each test (default: %(default)s)")
    parser.add_argument("--max_new_tokens", type=int, default=96)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--results", type=Path, help="CSV to append to (default: results.csv in output_dir)")
    return parser.parse_args(arguments)


def choose_cases(rows: Sequence[Mapping[str, Any]], number: int, latest: int) -> list[Mapping[str, Any]]:
    """The first answers whose loop begins early, so that few new tokens show it, and the first without any loop."""
    early = [row for row in rows if row["loop"] and row["loop"]["start"] < latest]
    fine = [row for row in rows if not row["loop"] and not row["near_loop"]]
    return [*early[:number], *fine[:number]]


def result_rows(diagnosis: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each number of the proof: answers with the fault, and what becomes of the first faulty token."""
    proof = diagnosis["proof"]
    where = {"recipe": "diagnose", "model": Path(diagnosis["model"]).name, "fault": diagnosis["fault"]}
    before = proof["before"]
    yield {**where, "features": "", **counted("unchanged", before), "p_value": ""}
    for trial in proof["trials"]:
        features = " ".join(f"{layer}:{feature}" for layer, feature in trial["members"])
        for metric, difference in (("ablated", "ablating"), ("amplified", "amplifying")):
            if trial[metric] is None:
                continue
            own = {**where, "features": features, **counted(metric, trial[metric])}
            yield {**own, "p_value": trial[difference]["p_value"]}
            random = counted(f"random directions {metric}", trial[f"random_{metric}"])
            yield {**where, "features": features, **random, "p_value": ""}
        for metric in ("first_token", "random_first_token"):
            name = metric.replace("_", " ") + " left"
            none = dict.fromkeys(("low", "high", "n", "p_value"), "")
            yield {**where, "features": features, "metric": name, "value": trial[metric], **none}


def counted(metric: str, share: Mapping[str, Any]) -> dict[str, Any]:
    """The share of answers with the fault, and its interval."""
    rate = share["hits"] / share["total"]
    return {"metric": metric, "value": rate, "low": share["low"], "high": share["high"], "n": share["total"]}


if __name__ == "__main__":
    main()
