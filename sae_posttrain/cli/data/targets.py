"""Target features in files: rows with a layer and a feature, or the features of a set."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...texts import Row, stream_rows
from ..inputs import at_least
from ..output_files import replacing

WEAK = 3
"""Default of --weak."""


def add_targets(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which features are wanted; one of the two is needed."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument(
        "--targets",
        metavar="FILE",
        help="the wanted features: a feature set (.safetensors), or rows with layer and feature, as "
        "`sae-posttrain data missing` and `sae-posttrain data explain` write them",
    )
    group.add_argument("--pool", metavar="FILE", help="want every feature that fires in these texts")
    parser.add_argument(
        "--pool-least",
        type=at_least(1),
        default=1,
        metavar="N",
        help="number of texts of --pool in which a feature must fire (default: %(default)s)",
    )
    parser.add_argument(
        "--min-relevance",
        type=float,
        metavar="R",
        help="keep only the rows of --targets with at least this relevance, which `sae-posttrain data explain --task` "
        "writes",
    )


def check_targets(args: argparse.Namespace) -> None:
    """Check the options of `add_targets` that go together. Raises: ValueError: --min-relevance with --pool."""
    if args.pool and args.min_relevance is not None:
        raise ValueError(
            "--min-relevance selects rows of --targets. Features of --pool have no relevance; leave it out."
        )


def read_targets(source: str, layer: int | None = None, min_relevance: float | None = None) -> list[Row]:
    """A row for each target, with at least `layer` and `feature`.

    Args:
        source: a feature set, or a file of rows.
        layer: only the targets of this layer; None: all.
        min_relevance: only rows whose `relevance` is at least this.

    Raises:
        ValueError: a row without a layer and a feature, or no target is left.
    """
    rows = _of_feature_set(source) if source.endswith(".safetensors") else list(stream_rows(source))
    if not rows:
        raise ValueError(
            f"{source} holds no rows. `sae-posttrain data missing` writes an empty file where nothing is missing, and "
            "`sae-posttrain data verify` where no example fires its target."
        )
    for number, row in enumerate(rows, start=1):
        place = {name: _whole(row.get(name)) for name in ("layer", "feature")}
        if None in place.values():
            raise ValueError(
                f"{source}, row {number}: expected whole numbers from 0 in layer and feature, got {row!r:.120}."
            )
        row.update(place)
        if min_relevance is not None and "relevance" not in row:
            raise ValueError(f"{source}, row {number} has no relevance; `sae-posttrain data explain --task` writes it.")
    kept = [row for row in rows if layer is None or row["layer"] == layer]
    if min_relevance is not None:
        kept = [row for row in kept if (row["relevance"] or 0.0) >= min_relevance]
    if not kept:
        layers = ", ".join(str(one) for one in sorted({row["layer"] for row in rows}))
        limit = "" if min_relevance is None else f" with a relevance of {min_relevance:g} or more"
        of_layer = "" if layer is None else f" of layer {layer}"
        raise ValueError(f"{source} holds no target{of_layer}{limit}; its targets are of layer {layers}.")
    return kept


def _whole(value: object) -> int | None:
    """A whole number of JSON, or the digits that stand for it in .csv; None for anything else."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _of_feature_set(source: str) -> list[Row]:
    from ...feature_set import FeatureSet

    return [
        {"layer": layer.layer, "feature": feature, "target": target}
        for layer in FeatureSet.load(source).layers
        for feature, target in zip(layer.ids, layer.targets, strict=True)
    ]


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows to a .jsonl file, which stays as it was unless all of them were written."""
    with replacing(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
