"""Does training on written examples help? A classifier of a topic, from few real texts and additions of each arm.

python recipes/coverage/classifier.py --coverage coverage --corpus en.jsonl.gz --topic source=react --least-words 15 \
    --model MODEL --sae SAE --layer 17 --results coverage/classifier.csv
It reads what run.py wrote with --topic. A logistic regression on mean residuals learns the topic from a few real texts
of each kind, to which an arm adds texts of the topic. The texts of other topics are real, and as many as those.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from run import ARMS, texts_of  # type: ignore[import-not-found]

from sae_posttrain.cli.inputs import load_model
from sae_posttrain.discovery.firing import collect_firing
from sae_posttrain.discovery.pooled import mean_residuals
from sae_posttrain.lab.shared.results import append_results
from sae_posttrain.texts import load_rows

Additions = dict[tuple[str, str], list[str]]
"""Arm, and how many texts it may add: `all` that were written, or as many as were `kept` → the texts."""


class Reader:
    """Reads mean residuals, and which texts fire one of the targets."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.model, self.tokenizer = load_model(args.model, dtype="auto", device="cpu")

    def residuals(self, texts: Sequence[str]) -> np.ndarray:
        layers, length = [self.args.layer], self.args.max_length
        return mean_residuals(self.model, self.tokenizer, texts, layers=layers, max_length=length)[self.args.layer]

    def fires(self, texts: Sequence[str], targets: set[int]) -> np.ndarray:
        options = {"layers": [self.args.layer], "max_length": self.args.max_length, "batch_size": 32}
        sets = collect_firing(self.model, self.tokenizer, self.args.sae, texts, **options)[self.args.layer]
        return np.array([bool(targets & set(sets[example].tolist())) for example in range(len(sets))])


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the experiment; returns the rows of its results."""
    args = parse(arguments)
    topic, others = unused_texts(args)
    every = {seed: additions(args.coverage, seed) for seed in args.seeds}
    most = max(len(texts) for found in every.values() for texts in found.values())
    needed = {
        "of the topic": (args.test + args.start, topic),
        "of other topics": (args.test + args.start + most, others),
    }
    for name, (count, texts) in needed.items():
        if len(texts) < count:
            raise ValueError(
                f"{args.corpus} has {len(texts)} unused texts {name}, but {count} are needed; lower --test."
            )
    reader = Reader(args)
    tests = np.concatenate([reader.residuals(topic[: args.test]), reader.residuals(others[: args.test])])
    targets = {int(row["feature"]) for row in load_rows(args.coverage / "explained.jsonl")}
    rare_E = reader.fires(topic[: args.test], targets)
    rows = []
    for seed, found in every.items():
        rng = random.Random(seed)
        start = reader.residuals(rng.sample(topic[args.test :], args.start))
        against = reader.residuals(rng.sample(others[args.test :], args.start + most))
        for (arm, budget), texts in found.items():
            positive = np.concatenate([start, reader.residuals(texts)]) if texts else start
            about = {"task": args.topic, "model": Path(args.model).name, "layer": args.layer, "seed": seed}
            about |= {"arm": arm, "budget": budget, "added": len(texts), "start": args.start}
            scores = measured(positive, against[: args.start + len(texts)], tests, rare_E)
            rows += [{**about, "metric": metric, **value} for metric, value in scores.items()]
    append_results(args.results, rows, __file__)
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--coverage", type=Path, required=True, help="the folder that run.py wrote to")
    parser.add_argument("--corpus", required=True, help="the file that was both --seed-set and --pool of run.py")
    parser.add_argument("--topic", required=True, metavar="COLUMN=VALUE", help="as of run.py")
    parser.add_argument("--least-words", type=int, default=1, help="as of run.py (default: %(default)s)")
    parser.add_argument("--model", required=True, help="folder or hub id of the model whose residuals are read")
    parser.add_argument("--sae", required=True, help="folder, hub id or short name of the SAEs")
    parser.add_argument("--layer", type=int, required=True, help="0-based decoder block")
    parser.add_argument("--max-length", type=int, default=96, help="tokens read of each text (default: %(default)s)")
    parser.add_argument("--start", type=int, default=8, help="real texts of each kind (default: %(default)s)")
    parser.add_argument("--test", type=int, default=500, help="texts of each kind to test on (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of run.py (default: 0 1 2)")
    parser.add_argument("--results", type=Path, required=True, help=".csv file to append the results to")
    return parser.parse_args(arguments)


def unused_texts(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The texts inside and outside of the topic that run.py has not used."""
    used = {name: len(load_rows(args.coverage / f"{name}.jsonl")) for name in ("seed", "pool", "natural")}
    inside = texts_of(args.corpus, args.topic, args.least_words)
    outside = texts_of(args.corpus, args.topic, args.least_words, inside=False)
    return inside[used["pool"] + used["natural"] :], outside[used["seed"] :]


def additions(folder: Path, seed: int) -> Additions:
    """What each arm adds: nothing, real texts, or written ones; of `kept` texts as many as the poorest arm has."""
    rng = random.Random(seed)
    written = {arm: [row["prompt"] for row in load_rows(folder / f"{arm}-{seed}.jsonl")] for arm in ARMS}
    natural = [row["text"] for row in load_rows(folder / "natural.jsonl")]
    kept = {arm: prompts(folder / f"{arm}-{seed}-kept.jsonl") for arm in ARMS if arm != "random"}
    found: Additions = {("none", "all"): []}
    for budget, texts in {"all": written, "kept": {**kept, "random": written["random"]}}.items():
        number = min(len(natural), *(len(one) for one in texts.values()))
        for arm, one in {**texts, "natural": natural}.items():
            if number:
                found[arm, budget] = rng.sample(one, number)
    return found


def prompts(file: Path) -> list[str]:
    """The prompts in a file of `data verify`, which is empty if no example was kept."""
    return [row["prompt"] for row in load_rows(file)] if file.stat().st_size else []


def measured(positive: np.ndarray, negative: np.ndarray, tests: np.ndarray, rare_E: np.ndarray) -> dict[str, Any]:
    """Accuracy and area under the curve on the test texts; recall where a target fires and where none does."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = np.repeat([True, False], [len(positive), len(negative)])
    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000))
    fitted.fit(np.concatenate([positive, negative]), labels)
    score = fitted.decision_function(tests)
    truth = np.arange(len(tests)) < len(rare_E)
    hits = (score > 0)[: len(rare_E)]
    right = {
        "accuracy": (score > 0) == truth,
        "recall where a target fires": hits[rare_E],
        "recall where none fires": hits[~rare_E],
    }
    found = {name: {"value": float(one.mean()), "n": len(one)} for name, one in right.items() if len(one)}
    return {**found, "AUC": {"value": float(roc_auc_score(truth, score)), "n": len(tests)}}


if __name__ == "__main__":
    main()
