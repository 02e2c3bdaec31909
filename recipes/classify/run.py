"""Toxicity by the features of an SAE: OR-rule, its controls and dense rivals, within a set and across languages.

    python recipes/classify/run.py --model models/gemma3-270m-cut --sae SAES --layers 14 16 17 \
        --sets en=toxicity_en.jsonl.gz de=toxicity_de.jsonl.gz --tests surge=other.jsonl.gz --output_dir classify

The model reads every text once. Firing sets and mean residuals are kept in the output folder, so that a run that was
killed goes on, and a second call only evaluates.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sae_posttrain.data.learning_curve import learning_curve
from sae_posttrain.data.probes import choose_probe, dense_fits
from sae_posttrain.discovery.firing import FiringSets
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
from sae_posttrain.residual import read_residuals
from sae_posttrain.sae import SparseAutoencoder, load_sae
from sae_posttrain.texts import load_rows

POSITIVE = "toxic"
SHARD = 128  # texts; what is lost when a run is killed
SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class ReadSet:
    """The texts of one set, whether each is toxic, and what the model makes of them."""

    texts: list[str]
    positive_E: np.ndarray
    firing: Mapping[int, FiringSets]
    residuals: Mapping[int, np.ndarray]

    def take(self, chosen_E: np.ndarray) -> ReadSet:
        """Some of the texts."""
        members = np.flatnonzero(chosen_E)
        return ReadSet(
            [self.texts[e] for e in members],
            self.positive_E[members],
            {layer: sets.take(members) for layer, sets in self.firing.items()},
            {layer: residual_ED[members] for layer, residual_ED in self.residuals.items()},
        )


def main() -> None:
    args = parse()
    named = dict(item.split("=", 1) for item in [*args.sets, *args.tests])
    read = {name: read_set(name, file, args) for name, file in named.items()}
    trained_on = [item.split("=", 1)[0] for item in args.sets]
    rows = [
        {"recipe": "classify", "model": Path(args.model).name, "seed": seed, **row}
        for seed in args.seeds
        for row in evaluate(read, trained_on, seed)
    ]
    append_results(Path(args.results or Path(args.output_dir) / "results.csv"), rows, __file__)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sae", required=True)
    parser.add_argument("--layers", type=int, nargs="+", required=True)
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


def is_positive(label: str) -> bool:
    """The sets write `toxic` and `clean`, or `Toxic` and `Not Toxic`."""
    return label.strip().lower() == POSITIVE


def sample(rows: Sequence[Mapping[str, Any]], number: int) -> list[tuple[str, bool]]:
    """Texts in a fixed random order, by turns toxic and not. A smaller number is the beginning of a larger one."""
    by_label: dict[bool, list[str]] = {True: [], False: []}
    for row in rows:
        by_label[is_positive(str(row["label"]))].append(str(row["text"]))
    for texts in by_label.values():
        random.Random(0).shuffle(texts)
    pairs = list(zip(*(by_label[label] for label in (True, False)), strict=False))[: number // 2]
    return [(text, label) for pair in pairs for text, label in zip(pair, (True, False), strict=True)]


def read_set(name: str, file: str, args: argparse.Namespace) -> ReadSet:
    """Read a set with the model, or what an earlier call kept of it."""
    rows = sample(load_rows(file), args.numbers[name])
    texts = [text for text, _ in rows]
    model = tokenizer = None
    saes = {layer: load_sae(args.sae, layer) for layer in args.layers}
    parts = []
    for start in range(0, len(texts), SHARD):
        kept = Path(args.output_dir) / name / f"{start:06d}.npz"
        part = texts[start : start + SHARD]
        key = _hash([args.model, args.sae, str(args.max_length), *part])
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            if model is None:
                model, tokenizer = load(args.model)
            found: dict[str, Any] = read_texts(model, tokenizer, saes, part, args.batch_size, args.max_length)
            partial = kept.with_suffix(".partial.npz")
            np.savez(partial, texts=key, **found)
            partial.replace(kept)  # a killed run never leaves an incomplete file under the final name
            print(f"{name}: read {start + len(part)} of {len(texts)} texts", flush=True)
        with np.load(kept) as arrays:
            if str(arrays["texts"]) != key:
                raise ValueError(f"{kept} is of other texts, or of another model or SAE. Name another output folder.")
            parts.append(dict(arrays))
    firing, residuals = {}, {}
    for layer, sae in saes.items():
        sizes = np.concatenate([part[f"sizes-{layer}"] for part in parts])
        features = np.concatenate([part[f"features-{layer}"] for part in parts])
        firing[layer] = FiringSets(layer, sae.d_sae, np.concatenate([[0], sizes.cumsum()]), features)
        residuals[layer] = np.concatenate([part[f"mean-{layer}"] for part in parts])
    return ReadSet(texts, np.array([label for _, label in rows]), firing, residuals)


def _hash(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def read_texts(
    model: Any,
    tokenizer: Any,
    saes: Mapping[int, SparseAutoencoder],
    texts: Sequence[str],
    batch_size: int,
    max_length: int,
) -> dict[str, np.ndarray]:
    """What `collect_firing` and `mean_residuals` give, in one pass of the model instead of two."""
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    order = sorted((e for e, ids in enumerate(encoded) if len(ids) > 1), key=lambda e: -len(encoded[e]))
    found: dict[str, np.ndarray] = {}
    fired: dict[int, list[np.ndarray]] = {layer: [np.empty(0, np.uint32)] * len(texts) for layer in saes}
    for layer, sae in saes.items():
        found[f"mean-{layer}"] = np.zeros((len(texts), sae.d_model), np.float32)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        residuals, _ = read_residuals(model, saes, [encoded[e] for e in batch])
        for layer, sae in saes.items():
            for row, e in enumerate(batch):
                own_SD = residuals[layer][row, 1 : len(encoded[e])]
                fires_K = (sae.encode(own_SD) > 0).any(0)
                fired[layer][e] = fires_K.nonzero()[:, 0].numpy().astype(np.uint32)
                found[f"mean-{layer}"][e] = own_SD.float().mean(0).numpy()
    for layer, rows in fired.items():
        found[f"sizes-{layer}"] = np.array([len(row) for row in rows], np.int64)
        found[f"features-{layer}"] = np.concatenate(rows)
    return found


def load(name: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)


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
        for method, detects, layers, features in detectors(own, held_out_E, seed):
            for test_name, test in tests.items():
                found = Detection.of(detects(test), test.positive_E)
                where = {"train": name, "test": test_name, "method": method, "layers": layers, "features": features}
                for metric in ("f1", "balanced_accuracy", "precision", "recall"):
                    bounds = {"low": found.low, "high": found.high} if metric == "f1" else {"low": "", "high": ""}
                    yield {**where, "metric": metric, "value": getattr(found, metric), **bounds, "n": found.total}
        for test_name, test in tests.items():
            points = learning_curve(
                own.firing, own.positive_E, test.firing, test.positive_E, shares=SHARES, draws=10, seed=seed
            )
            for point in points:
                where = {"train": name, "test": test_name, "method": f"OR-rule, {point.share:.0%} of the texts"}
                where |= {"layers": "", "features": "", "metric": "f1 over 10 parts", "value": point.mean}
                yield {**where, "low": min(point.f1), "high": max(point.f1), "n": point.examples}
    for layer, value in shared_features(*(best[name] for name in trained_on[:2])).items() if len(best) > 1 else ():
        where = {"train": trained_on[0], "test": trained_on[1], "method": "10 best features", "layers": layer}
        yield {**where, "features": 10, "metric": "jaccard", "value": value, "low": "", "high": "", "n": ""}


def detectors(own: ReadSet, held_out_E: np.ndarray, seed: int) -> Iterator[tuple[str, Any, str, Any]]:
    """Name, detector of a `ReadSet`, layers and number of features of each method."""
    rules = {
        "OR-rule": choose_rule(own.firing, own.positive_E, held_out_E),
        "OR-rule, K by balanced accuracy": choose_rule(
            own.firing, own.positive_E, held_out_E, choose_by="balanced_accuracy"
        ),
        "OR-rule, several layers": choose_rule(own.firing, own.positive_E, held_out_E, combine="layers"),
        **{
            f"OR-rule, K={k}": choose_rule(own.firing, own.positive_E, held_out_E, sizes=[k]) for k in (1, 2, 5, 10, 30)
        },
    }
    for method, rule in rules.items():
        layers = " ".join(map(str, dict.fromkeys(one.layer for one in rule.features)))
        yield method, lambda test, rule=rule: rule.detects(test.firing), layers, len(rule.features)
    chosen = rules["OR-rule"].features
    layer = chosen[0].layer
    drawn = [RankedFeature(layer, s, 0.0) for s in random_features(own.firing[layer], chosen, len(chosen), seed)]
    yield "random features", lambda test: any_fires(test.firing, drawn), str(layer), len(drawn)
    yield "always yes", lambda test: np.ones(len(test.texts), dtype=bool), "", ""
    for method, fits in dense_fits().items():
        probe = choose_probe(fits, own.residuals, own.positive_E, held_out_E)
        yield method, lambda test, probe=probe: probe.detects(test.residuals), str(probe.layer), ""
    yield "words (TF-IDF, logistic regression)", words(own), "", ""


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
