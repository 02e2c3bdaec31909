"""Steer, ablate and classify with the features of a concept, beside random features and the difference of means.

python recipes/real_weights/concept_features.py --model models/gemma3-270m-cut --sae sae-0 --texts concepts/you \
    --features concepts/features-0.safetensors --random concepts/random-0.safetensors \
    --dense concepts/dense-0.safetensors --seed 0 --results concepts/results.csv
Random and dense directions are scaled to the norm of the features, layer by layer.
"""

# S sequence, D model width, E texts

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from concepts import of_each_label, read_answers  # type: ignore[import-not-found]
from numpy.typing import NDArray
from result_rows import Arm, commit, ratio_interval, replace_rows, row  # type: ignore[import-not-found]
from torch import Tensor

from sae_posttrain import FeatureSet, ablate, load_sae, steer
from sae_posttrain.data.classification import classify
from sae_posttrain.data.probes import choose_probe, dense_fits
from sae_posttrain.discovery.pooled import mean_residuals
from sae_posttrain.metrics.detection import Detection
from sae_posttrain.sampling import SamplingSettings, sample_responses
from sae_posttrain.steering.generate import typical_contributions
from sae_posttrain.texts import load_rows, load_texts

RECIPE = "concepts"


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the command; returns the rows of its results."""
    args = parse(arguments)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    concept = json.loads((args.texts / "concept.json").read_text(encoding="utf-8"))
    rows = of_each_label(load_rows(args.texts / "held_out.jsonl"), args.per_label)
    sets = {name: FeatureSet.load(getattr(args, name)) for name in ("features", "random", "dense")}
    written: list[dict[str, Any]] = []
    given = (model, tokenizer, sets, rows, concept, args)
    for arm, metric, setting, value, low, high, n in chain(steered(*given), ablated(*given), classified(*given)):
        of = Arm(arm, str(args.seed), Path(args.model).name, None, commit())
        written.append(row(args.recipe, of, metric, f"{concept['name']}: {setting}", value, low, high, n))
        print(", ".join(str(one) for one in list(written[-1].values())[2:10]), flush=True)
    replace_rows(args.results, written)
    return written


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--sae", required=True, help="the SAEs that the features were found with")
    parser.add_argument("--texts", type=Path, required=True, help="folder that concept_texts.py wrote")
    parser.add_argument("--features", required=True)
    parser.add_argument("--random", required=True, help="what `discover contrast --select random` found")
    parser.add_argument("--dense", required=True, help="what `discover contrast --select dense` found")
    parser.add_argument("--alphas", type=float, nargs="+", default=[1.0, 2.0], help="default: %(default)s")
    parser.add_argument("--per-label", type=int, default=60, help="held-out texts (default: %(default)s)")
    parser.add_argument("--discovery", type=int, default=200, help="texts of each kind for the probes")
    parser.add_argument("--max-tokens", type=int, default=48, help="tokens read or sampled (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--dtype", default="bfloat16", help="of the model (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the SAEs and of sampling (default: %(default)s)")
    parser.add_argument("--recipe", default=RECIPE, help="name of the experiment in the results")
    parser.add_argument("--results", type=Path, required=True, help="CSV; rows of the same arm and seed are replaced")
    return parser.parse_args(arguments)


Line = tuple[str, str, str, float, float | None, float | None, int]


def steered(
    model: Any, tokenizer: Any, sets: dict[str, FeatureSet], rows: Sequence[Any], concept: Any, args: argparse.Namespace
) -> Iterator[Line]:
    """How often answers to prompts without the concept show it, and what the plain model thinks of these answers."""
    prompts = [one["prompt"] for one in rows if one["label"] != concept["name"]]
    directions = equal_norms({name: typical_contributions(one) for name, one in sets.items()})
    settings = SamplingSettings(1.0, 1.0, args.max_tokens, seed=args.seed)
    shown = set(concept["tokens"])
    for name, alpha in [("unsteered", 0.0), *((name, alpha) for name in sets for alpha in args.alphas)]:
        steering: AbstractContextManager[None] = steer(model, directions[name], alpha=alpha) if alpha else nullcontext()
        with steering:
            found = sample_responses(model, tokenizer, prompts, settings, samples=1, batch_size=args.batch_size)
        answers = [of_prompt[0] for of_prompt in found]
        setting = f"steered, alpha {alpha:g}" if alpha else "unsteered"
        hits = np.array([(float(not shown.isdisjoint(one.ids)), 1) for one in answers])
        title = "sampled answers with a token of the concept"
        yield name, title, setting, *ratio_interval(hits), len(hits)
        read = [{"prompt": p, "completion": one.text} for p, one in zip(prompts, answers, strict=True) if one.text]
        lost = list(read_answers(model, tokenizer, read, concept["tokens"], args.max_tokens, args.batch_size))
        value, low, high = ratio_interval(np.array([(nats, count) for nats, _, count in lost if count]))
        yield name, "perplexity of sampled answers", setting, math.exp(value), math.exp(low), math.exp(high), len(lost)


def equal_norms(directions: dict[str, dict[int, Tensor]]) -> dict[str, dict[int, Tensor]]:
    """Every direction with the norm that the features' has in its layer."""
    norms = {layer: float(direction_D.norm()) for layer, direction_D in directions["features"].items()}
    return {
        name: {layer: own_D / own_D.norm() * norms[layer] for layer, own_D in by_layer.items() if layer in norms}
        for name, by_layer in directions.items()
    }


def ablated(
    model: Any, tokenizer: Any, sets: dict[str, FeatureSet], rows: Sequence[Any], concept: Any, args: argparse.Namespace
) -> Iterator[Line]:
    """The probability of the concept's tokens in answers that show it, and the loss of all, without the features."""
    measured: dict[str, Any] = {}
    for name, features in {"unchanged": None, **sets}.items():
        with nullcontext() if features is None else ablate(model, features):
            measured[name] = list(
                read_answers(model, tokenizer, rows, concept["tokens"], args.max_tokens, args.batch_size)
            )
    for name in sets:
        for label in dict.fromkeys(one["label"] for one in rows):
            places = [i for i, one in enumerate(rows) if one["label"] == label]
            for place, title in enumerate(("held-out loss", "probability of the concept per token")):
                pairs = [
                    (
                        measured[name][i][place],
                        measured[name][i][2],
                        measured["unchanged"][i][place],
                        measured[name][i][2],
                    )
                    for i in places
                ]
                values = ratio_interval(np.array(pairs))
                yield name, f"change of {title} by ablation", label, *values, len(places)


def classified(
    model: Any, tokenizer: Any, sets: dict[str, FeatureSet], rows: Sequence[Any], concept: Any, args: argparse.Namespace
) -> Iterator[Line]:
    """Held-out texts by the OR-rule of each set, as `classify` judges them, and by dense classifiers."""
    texts = [one["prompt"] + one["completion"] for one in rows]
    positive_E = np.array([one["label"] == concept["name"] for one in rows])
    saes = {layer.layer: load_sae(args.sae, layer.layer) for layer in sets["features"].layers}
    for name in ("features", "random"):
        for how, sae in (("with the SAE", saes), ("by thresholds", None)):
            verdicts = classify(model, tokenizer, sets[name], texts, sae=sae, max_length=128)
            yield from detected(
                name, f"classified {how}", np.array([bool(one.targets) for one in verdicts]), positive_E
            )
    yield from detected("always yes", "classified", np.ones(len(texts), dtype=bool), positive_E)
    labelled = {kind: load_texts(args.texts / f"{kind}.jsonl")[: args.discovery] for kind in ("positive", "negative")}
    own_E = np.array([kind == "positive" for kind, members in labelled.items() for _ in members])
    reading: dict[str, Any] = {"layers": list(saes), "max_length": 128, "progress": False}
    read = mean_residuals(model, tokenizer, [text for members in labelled.values() for text in members], **reading)
    tested = mean_residuals(model, tokenizer, texts, **reading)
    held_out_E = np.arange(len(own_E)) % 5 == 0
    for name, fits in dense_fits().items():
        probe = choose_probe(fits, read, own_E, held_out_E)
        yield from detected(name, "classified", probe.detects(tested), positive_E)


def detected(arm: str, setting: str, said_E: NDArray[np.bool_], positive_E: NDArray[np.bool_]) -> Iterator[Line]:
    found = Detection.of(said_E, positive_E)
    yield arm, "f1", setting, found.f1, found.low, found.high, found.total
    yield arm, "balanced accuracy", setting, found.balanced_accuracy, None, None, found.total


if __name__ == "__main__":
    main()
