"""Compare several checkpoints with one base: which features change, and are they those that training suppressed?

python recipes/model_diff/run.py --base runs/sft-0 --tuned runs/sasft-zh-0 runs/random_features-zh-0 \
    --noise runs/sft-1 --sae sae-0 --layers 14 16 17 --texts texts-0/held_out.jsonl --features features-0.safetensors \
    --target zh --output diffs --results diffs/results.csv
Every model is read once, and what was read is kept in the output folder. A model of --noise is also compared as if it
were tuned, with the other models of --noise as its noise.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sae_posttrain import FeatureSet, load_sae
from sae_posttrain.cli.inputs import load_model
from sae_posttrain.inspection.contexts import top_activations
from sae_posttrain.inspection.diff import diff_readings
from sae_posttrain.inspection.diff_record import diff_to_json
from sae_posttrain.inspection.feature_readings import FeatureReading, Quantity, read_model_features
from sae_posttrain.lab.shared.results import append_results
from sae_posttrain.texts import load_rows

QUANTITIES: tuple[Quantity, ...] = ("activation", "firing", "pre_activation")


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the recipe; returns the rows of its results."""
    args = parse(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    texts = texts_by_language(args)
    features = FeatureSet.load(args.features).select([args.target])
    base = reading_of(args, args.base, texts)
    noise = [reading_of(args, run, texts) for run in args.noise]
    pairs = [(reading_of(args, run, texts), noise) for run in args.tuned]
    pairs += [(one, [other for other in noise if other is not one]) for one in noise if len(noise) > 1]
    rows = []
    for tuned, others in pairs:
        for by in QUANTITIES:
            found = diff_readings(base, tuned, noise=others, by=by)
            record = diff_to_json(found, features=features)
            name = f"{base.name}-{tuned.name}-{by}"
            if args.passages and by == args.passages_by:
                record = diff_to_json(found, features=features, contexts=passages(args, found, texts))
            (args.output / f"{name}.json").write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
            rows += rows_of(next(iter(record.values()))[0])
    append_results(args.results, rows, __file__)
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", required=True, help="folder of the run that all others are compared with")
    parser.add_argument("--tuned", nargs="+", required=True, help="folders of runs")
    parser.add_argument("--noise", nargs="*", default=[], help="folders of runs that differ by the seed alone")
    parser.add_argument("--sae", required=True, help="folder or hub id of the SAEs")
    parser.add_argument("--layers", type=int, nargs="+", required=True, help="0-based decoder blocks")
    parser.add_argument("--texts", required=True, help="rows with prompt, completion and language")
    parser.add_argument("--features", required=True, help="the feature set that training suppressed a part of")
    parser.add_argument("--target", required=True, help="the suppressed language")
    parser.add_argument("--per-language", type=int, default=24, help="texts of each language (default: %(default)s)")
    parser.add_argument("--max-length", type=int, default=96, help="tokens read of each text (default: %(default)s)")
    parser.add_argument("--passages", type=int, default=0, help="passages for each ranked feature (default: none)")
    parser.add_argument("--passages-by", choices=QUANTITIES, default="activation", help="ranking that gets passages")
    parser.add_argument("--output", type=Path, required=True, help="folder for readings and diffs")
    parser.add_argument("--results", type=Path, required=True, help=".csv file to append the results to")
    return parser.parse_args(arguments)


def texts_by_language(args: argparse.Namespace) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for row in load_rows(args.texts):
        texts.setdefault(row["language"], []).append(row["prompt"] + row["completion"])
    return {language: members[: args.per_language] for language, members in texts.items()}


def reading_of(args: argparse.Namespace, run: str, texts: Mapping[str, Sequence[str]]) -> FeatureReading:
    """What the run's features do on the texts, from the output folder if it is there.

    Raises:
        ValueError: the folder holds a reading of another run, SAE or layer, or of other texts.
    """
    name = Path(run).name
    kept = args.output / f"{name}.npz"
    source = json.dumps([str(Path(run).resolve()), args.sae, args.layers, args.max_length, texts])
    key = hashlib.sha256(source.encode()).hexdigest()
    if not kept.exists():
        model, tokenizer = load_model(run, dtype="auto", device="cpu")
        saes = {layer: load_sae(args.sae, layer) for layer in args.layers}
        found = read_model_features(model, tokenizer, saes, texts, name=name, max_length=args.max_length)
        arrays: dict[str, Any] = {
            f"{layer} {by}": one for layer, sums in found.sums.items() for by, one in sums.items()
        }
        partial = kept.with_suffix(".partial.npz")
        about: dict[str, Any] = {"key": key, "tokens": found.tokens, "groups": np.array(found.groups)}
        np.savez_compressed(partial, **about, **arrays)
        partial.replace(kept)  # a killed run never leaves an incomplete file under the final name
        del model
        gc.collect()
    with np.load(kept) as file:
        if "key" not in file or str(file["key"]) != key:
            raise ValueError(
                f"{kept} was read from another run, SAE or layer, or on other texts. Delete it, or change --output."
            )
        groups = tuple(file["groups"].tolist())
        sums = {layer: {by: file[f"{layer} {by}"] for by in QUANTITIES} for layer in args.layers}
        return FeatureReading(name, groups, file["tokens"], sums)


def passages(args: argparse.Namespace, found: Any, texts: Mapping[str, Sequence[str]]) -> list[Any]:
    """Passages of the ranked features, read in the base model."""
    wanted: dict[int, list[int]] = {}
    for one in found.ranking(20):
        wanted.setdefault(one.layer, []).append(one.feature)
    model, tokenizer = load_model(args.base, dtype="auto", device="cpu")
    saes = {layer: load_sae(args.sae, layer) for layer in wanted}
    shown = {"top": args.passages, "around": 10, "max_length": args.max_length}
    return top_activations(model, tokenizer, saes, wanted, texts, **shown)


def rows_of(diff: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Counts over all layers, ranks of the followed features, and their means in the other languages."""
    about = {"base": diff["base"], "tuned": diff["tuned"], "by": diff["by"]}
    followed = diff["followed"]
    ranks = sorted(row["rank"] or diff["changed"] + 1 for row in followed)
    values: dict[str, Any] = {
        "features that change": diff["changed"],
        "beyond other texts": sum(layer["beyond_texts"] for layer in diff["layers"]),
        "beyond the noise models": _total(layer["beyond_noise"] for layer in diff["layers"]),
        "largest score": max((abs(row["score"]) for row in diff["features"]), default=0.0),
        "largest score in a noise model": diff["noise_score"],
        "best rank of a followed feature": ranks[0],
        "median rank of the followed features": float(np.median(ranks)),
        "followed features among the first 100": sum(rank <= 100 for rank in ranks),
    }
    for group in diff["groups"]:
        means = np.array([row["groups"][group][diff["by"]] for row in followed]).mean(0)
        values |= {f"followed features in {group}, base": means[0], f"followed features in {group}, tuned": means[1]}
    return [{**about, "metric": metric, "value": value} for metric, value in values.items()]


def _total(counts: Any) -> int | None:
    found = list(counts)
    return None if None in found else sum(found)


if __name__ == "__main__":
    main()
