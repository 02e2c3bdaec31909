"""Toxicity by the features of an SAE: OR-rule, its controls and dense rivals, within a set and across languages.

    python recipes/classify/run.py --model models/gemma3-270m-cut --sae SAES --layers 14 16 17 \
        --sets en=toxicity_en.jsonl.gz de=toxicity_de.jsonl.gz --tests surge=other.jsonl.gz --output_dir classify

The model reads every text once, for all SAEs. Firing sets and mean residuals are kept in the output folder, so that a
run that was killed goes on, and a second call only evaluates.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from limits import Found, all_features, best_layer, hindsight, with_threshold  # type: ignore[import-not-found]
from numpy.typing import NDArray
from reading import Reader, ReadSet, load_saes  # type: ignore[import-not-found]

from sae_posttrain.data.learning_curve import learning_curve
from sae_posttrain.data.probes import choose_probe, dense_fits
from sae_posttrain.discovery.or_rule import (
    RankedFeature,
    any_fires,
    choose_rule,
    random_features,
    rank_features,
    shared_features,
    stratified_part,
)
from sae_posttrain.lab.shared.results import append_results
from sae_posttrain.metrics.detection import Detection

SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)


def main() -> None:
    args = parse()
    named = dict(item.split("=", 1) for item in [*args.sets, *args.tests])
    reader = Reader(
        args.model, load_saes(args.sae, args.layers), Path(args.output_dir), args.batch_size, args.max_length
    )
    read = {name: reader.read(name, file, args.numbers[name]) for name, file in named.items()}
    trained_on = [item.split("=", 1)[0] for item in args.sets]
    for source in reader.saes:
        of_source = {name: found[source] for name, found in read.items()}
        rows = [
            {"recipe": "classify", "model": Path(args.model).name, "sae": source, "seed": seed, **row}
            for seed in args.seeds
            for row in evaluate(of_source, trained_on, seed)
        ]
        append_results(Path(args.results or Path(args.output_dir) / "results.csv"), rows, __file__)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--model", required=True)
    parser.add_argument(
        "--sae", required=True, nargs="+", help="folders of SAEs, each with --layers, or with its own: saes:6,11"
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[])
    parser.add_argument("--sets", nargs="+", required=True, metavar="NAME=FILE", help="sets to find features in")
    parser.add_argument("--tests", nargs="*", default=[], metavar="NAME=FILE", help="sets that are only tested on")
    parser.add_argument("--texts", type=int, nargs="+", default=[1280], help="texts of each set, in its order")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--max_length", type=int, default=128)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--results", help="CSV to append to (default: results.csv in output_dir)")
    args = parser.parse_args()
    names = [item.split("=", 1)[0] for item in [*args.sets, *args.tests]]
    numbers = args.texts * len(names) if len(args.texts) == 1 else args.texts
    args.numbers = dict(zip(names, numbers, strict=True))
    return args


def evaluate(read: Mapping[str, ReadSet], trained_on: Sequence[str], seed: int) -> Iterator[dict[str, Any]]:
    """Every number of one seed, which decides what is trained and what is tested on."""
    rng = np.random.default_rng(seed)
    test_E = {name: stratified_part(one.positive_E, 0.4, rng) for name, one in read.items()}
    tests = {name: one.take(test_E[name] if name in trained_on else test_E[name] | True) for name, one in read.items()}
    best = {}
    for name in trained_on:
        own = read[name].take(~test_E[name])
        held_out_E = stratified_part(own.positive_E, 0.2, rng)
        best[name] = rank_features(own.firing, own.positive_E, ~held_out_E)
        for one in detectors(own, held_out_E, seed):
            for test_name, test in tests.items():
                where = {"train": name, "test": test_name, "method": one.method}
                found = Detection.of(one.detects(test), test.positive_E)
                yield from rows_of({**where, "layers": one.layers, "features": one.features}, found)
        for test_name, test in tests.items():
            found, layer, size = hindsight(own, held_out_E, test)
            where = {"train": name, "test": test_name, "method": "OR-rule, layer and K with hindsight"}
            yield from rows_of({**where, "layers": layer, "features": size}, found)
            yield from curve(name, own, test_name, test, seed)
    for layer, value in shared_features(*(best[name] for name in trained_on[:2])).items() if len(best) > 1 else ():
        where = {"train": trained_on[0], "test": trained_on[1], "method": "10 best features", "layers": layer}
        yield {**where, "features": 10, "metric": "jaccard", "value": value, "low": "", "high": "", "n": ""}


def rows_of(where: Mapping[str, Any], found: Detection) -> Iterator[dict[str, Any]]:
    for metric in ("f1", "balanced_accuracy", "precision", "recall"):
        bounds = {"low": found.low, "high": found.high} if metric == "f1" else {"low": "", "high": ""}
        yield {**where, "metric": metric, "value": getattr(found, metric), **bounds, "n": found.total}


def curve(name: str, own: ReadSet, test_name: str, test: ReadSet, seed: int) -> Iterator[dict[str, Any]]:
    """F1 of rules that were found with parts of the texts."""
    labels = {"positive_E": own.positive_E, "test_positive_E": test.positive_E}
    for point in learning_curve(own.firing, test_firing=test.firing, **labels, shares=SHARES, draws=10, seed=seed):
        where = {"train": name, "test": test_name, "method": f"OR-rule, {point.share:.0%} of the texts"}
        where |= {"layers": "", "features": "", "metric": "f1 over 10 parts"}
        yield {**where, "value": point.mean, "low": min(point.f1), "high": max(point.f1), "n": point.examples}


def detectors(own: ReadSet, held_out_E: NDArray[np.bool_], seed: int) -> Iterator[Found]:
    """Each method, found on the texts of a set."""
    by_accuracy: dict[str, Any] = {"choose_by": "balanced_accuracy"}
    settings: dict[str, dict[str, Any]] = {
        "OR-rule": {},
        "OR-rule, K by balanced accuracy": by_accuracy,
        "OR-rule, several layers": {"combine": "layers"},
        "OR-rule, several layers, by balanced accuracy": {"combine": "layers", **by_accuracy},
        **{f"OR-rule, K={k}": {"sizes": [k]} for k in (1, 2, 5, 10, 30)},
    }
    rules = {name: choose_rule(own.firing, own.positive_E, held_out_E, **given) for name, given in settings.items()}
    for method, rule in rules.items():
        layers = " ".join(map(str, dict.fromkeys(one.layer for one in rule.features)))
        yield Found(method, lambda test, rule=rule: rule.detects(test.firing), layers, len(rule.features))
    yield best_layer(own, held_out_E)
    yield with_threshold(own, held_out_E)
    chosen = rules["OR-rule"].features
    layer = chosen[0].layer
    drawn = [RankedFeature(layer, s, 0.0) for s in random_features(own.firing[layer], chosen, len(chosen), seed)]
    yield Found("random features", lambda test: any_fires(test.firing, drawn), str(layer), len(drawn))
    yield Found("always yes", lambda test: np.ones(len(test.texts), dtype=bool))
    yield from all_features(own, held_out_E)
    for method, fits in dense_fits().items():
        probe = choose_probe(fits, own.residuals, own.positive_E, held_out_E)
        yield Found(method, lambda test, probe=probe: probe.detects(test.residuals), str(probe.layer))
    yield Found("words (TF-IDF, logistic regression)", words(own))


def words(own: ReadSet) -> Any:
    """What needs no model at all."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    fitted = make_pipeline(TfidfVectorizer(sublinear_tf=True, min_df=2), LogisticRegression(C=10.0, max_iter=2000))
    fitted.fit(own.texts, own.positive_E)
    return lambda test: np.asarray(fitted.predict(test.texts), dtype=bool)


if __name__ == "__main__":
    main()
