"""`sae-posttrain features`: show a feature set, or write a subset of it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..languages import get_language
from .output_files import check_file

if TYPE_CHECKING:
    from ..feature_set import FeatureSet


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("features", help="show a feature set, or write some of its features to a new one")
    kinds = parser.add_subparsers(required=True, metavar="kind")
    show = kinds.add_parser("show", help="show the source, the targets and the mean activations of the features")
    _add_choice(show)
    show.add_argument("--json", action="store_true", help="print JSON instead of a table")
    show.set_defaults(run=run_show)
    select = kinds.add_parser("select", help="write a feature set with some of the layers, targets or features")
    _add_choice(select)
    select.add_argument("--output", required=True, help="the .safetensors file to write")
    select.set_defaults(run=run_features_select)


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("features", help="a feature set: a file, a folder or a hub id")
    parser.add_argument(
        "--targets", nargs="+", help="keep features for these targets: languages, or repetition (default: all)"
    )
    parser.add_argument("--layers", type=int, nargs="+", help="keep these 0-based decoder blocks (default: all)")
    parser.add_argument(
        "--top", type=int, help="keep this many features per target and layer, best first (default: all)"
    )


def run_show(args: argparse.Namespace) -> int:
    features = _chosen(args)
    print(json.dumps(_as_json(features), ensure_ascii=False, indent=2) if args.json else _as_text(features))
    return 0


def run_features_select(args: argparse.Namespace) -> int:
    if args.targets is args.layers is args.top is None:
        raise ValueError("Nothing to select: give --targets, --layers or --top.")
    path = check_file(args.output)
    whole, features = _load(args.features), _chosen(args)
    features.save(path)
    print(f"{_as_text(features)}\n\nWrote {path}")
    if whole.alpha is not None and features.alpha is None:
        print(
            f"The new set has no alpha: {whole.alpha:g} was calibrated for all features. Run `sae-posttrain "
            "calibrate` on it."
        )
    return 0


def _load(source: str) -> FeatureSet:
    from ..feature_set import FeatureSet

    return FeatureSet.load(source)


def _chosen(args: argparse.Namespace) -> FeatureSet:
    features = _load(args.features)
    targets = args.targets and [one if one in features.targets else get_language(one).code for one in args.targets]
    return features.select(targets, layers=args.layers, top=args.top)


def _as_text(features: FeatureSet) -> str:
    from ..feature_set.card import thresholds_in_words

    source = features.provenance
    facts = {
        "model": f"{source.base_model} ({source.num_layers} layers of width {source.d_model})",
        "SAE": source.sae,
        "chosen by": f"{source.selection}, with sae-posttrain {source.library_version}",
        "alpha": "" if features.alpha is None else f"{features.alpha:g}",
        "thresholds": thresholds_in_words(features),
        "sha256": features.sha256,
    }
    lines = [f"{name:<10} {fact}" for name, fact in facts.items() if fact]
    count = sum(len(layer.ids) for layer in features.layers)
    title = f"{count} features for {', '.join(features.targets)}; their mean activation in each group of texts:"
    return "\n".join([*lines, "", title, "", features.summary(), *_with_gap(features.active_elsewhere())])


def _with_gap(sentences: tuple[str, ...]) -> list[str]:
    return ["", *sentences] if sentences else []


def _as_json(features: FeatureSet) -> dict[str, Any]:
    rows = [
        {
            "layer": layer.layer,
            "feature": layer.ids[row],
            "target": layer.targets[row],
            "score": float(layer.score[row]),
            "typical": float(layer.typical[row]),
            "activations": {group: float(values[row]) for group, values in layer.activations.items()},
            "baselines": {code: float(values[row]) for code, values in layer.baselines.items()},
            "threshold": None if layer.threshold is None else float(layer.threshold[row]),
            "disagreement": None if layer.disagreement is None else float(layer.disagreement[row]),
        }
        for layer in features.layers
        for row in range(len(layer.ids))
    ]
    return {
        "provenance": asdict(features.provenance),
        "alpha": features.alpha,
        "sha256": features.sha256,
        "features": rows,
        "active_elsewhere": list(features.active_elsewhere()),
    }
