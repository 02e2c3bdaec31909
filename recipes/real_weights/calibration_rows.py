"""Add the curve of a calibration to the recipe's results.

python recipes/real_weights/calibration_rows.py --curve real_weights/repetition.calibration.json --model smollm2-135m \
    --results benchmarks/results/real_weights.csv
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from result_rows import commit, replace_rows  # type: ignore[import-not-found]


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--curve", type=Path, required=True, help="the .calibration.json that `calibrate` wrote")
    parser.add_argument("--model", required=True, help="name of the model in the results")
    parser.add_argument("--seed", type=int, default=0, help="seed of the calibration (default: %(default)s)")
    parser.add_argument("--label", default="steered", help="what the steered arms are called (default: %(default)s)")
    parser.add_argument("--results", type=Path, required=True, help="CSV; rows of the same arm and seed are replaced")
    parser.add_argument("--commit", default=commit(), help="commit that the calibration ran with (default: this one)")
    args = parser.parse_args(arguments)
    curve = json.loads(args.curve.read_text(encoding="utf-8"))
    same = {"recipe": "repetition", "model": args.model, "seed": args.seed}
    points = (curve["plain"], *curve["other_plain"], *curve["points"])
    rows = [{**same, **row, "commit": args.commit} for point in points for row in rows_of(point, args.label)]
    replace_rows(args.results, rows)
    return rows


def rows_of(point: dict[str, Any], label: str) -> Iterator[dict[str, Any]]:
    """How many responses loop at a point, and how much less fluent the text before is."""
    arm = "unsteered"
    if point["layers"]:
        features = "all features" if point["top"] is None else f"{point['top']} per layer"
        arm = f"{label}, layers {'+'.join(map(str, point['layers']))}, {features}"
    setting = f"alpha {point['alpha']:g}, temperature {point['temperature']:g}"
    shared = {"arm": arm, "setting": setting, "n": point["total"]}
    interval = {name: f"{point[name]:.6f}" for name in ("low", "high")}
    yield {**shared, "metric": "responses that loop", "value": f"{point['rate']:.6f}", **interval}
    if point["ratio"] is not None:
        ratio = f"{point['ratio']:.6f}"
        yield {**shared, "metric": "perplexity before the loop, ratio", "value": ratio, "low": "", "high": ""}


if __name__ == "__main__":
    main()
