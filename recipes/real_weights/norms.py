"""At which norm do SAE features make a model loop where random directions and the dense direction do not?

python recipes/real_weights/norms.py --model models/smollm2-135m --features real_weights/repetition-22.safetensors \
    --dense real_weights/dense-22.safetensors --prompts real_weights/texts/calibration_prompts.jsonl \
    --results benchmarks/results/real_weights.csv
Everything that is compared adds a vector of the same length to the residual. The random directions are those of the
training runs with the same seeds. No training is needed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from result_rows import COLUMNS, Arm, commit, load_run, replace_rows, row  # type: ignore[import-not-found]
from torch import Tensor

from sae_posttrain import FeatureSet
from sae_posttrain.metrics.loops import LoopSettings
from sae_posttrain.metrics.share import Share
from sae_posttrain.sampling import SamplingSettings, encode_prompts
from sae_posttrain.steering import typical_contributions
from sae_posttrain.steering.curve import Point, SteeredAnswer
from sae_posttrain.steering.steered_engine import steered_engine
from sae_posttrain.steering.trial import Trial
from sae_posttrain.texts import load_rows
from sae_posttrain.training.rollouts.source import random_like

RECIPE = "repetition-norms"


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the command; returns the rows of its results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--features", required=True, help="feature set of one layer, which `calibrate` wrote")
    parser.add_argument("--dense", help="feature set of the same layer, by `discover repetition --select dense`")
    parser.add_argument("--prompts", type=Path, required=True, help=".jsonl file that prompts.py wrote")
    parser.add_argument("--limit", type=int, default=48, help="prompts to use (default: %(default)s)")
    parser.add_argument(
        "--alphas", type=float, nargs="+", default=[1.0, 2.0, 4.0], help="of the features (default: 1 2 4)"
    )
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2], help="random directions (default: 0 1 2)")
    parser.add_argument("--temperature", type=float, default=0.7, help="of the sampling (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="of an answer (default: %(default)s)")
    parser.add_argument("--min-tokens", type=int, default=32, help="of a loop (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=144, help="answers sampled at once (default: %(default)s)")
    parser.add_argument("--results", type=Path, required=True, help="CSV; rows of the same arm and seed are replaced")
    parser.add_argument("--dtype", default="bfloat16", help="of the model (default: %(default)s)")
    args = parser.parse_args(arguments)
    features = FeatureSet.load(args.features)
    compared = arms(features, FeatureSet.load(args.dense) if args.dense else None, args.draws)
    model, tokenizer = load_run(args.model, args.dtype)
    ids = encode_prompts(tokenizer, [one["prompt"] for one in load_rows(args.prompts)[: args.limit]], chat=True)
    loops = LoopSettings(min_tokens=args.min_tokens)

    def trial_of(chosen: FeatureSet) -> Trial:
        engine = steered_engine(model, tokenizer, chosen, args.batch_size)
        return Trial(engine, tokenizer, chosen, ids, loops, progress=False)

    plain = trial_of(features)
    sampling = SamplingSettings(args.temperature, top_p=1.0, max_new_tokens=args.max_new_tokens)
    layer = f"layer {features.layers[0].layer}"
    arm = Arm("", "", args.model.name, None, commit())
    written = list(rows_of(replace(arm, arm="unsteered"), [plain.run_plain(sampling)]))
    random_answers: list[SteeredAnswer] = []
    for (name, seed), chosen in compared.items():
        trial = trial_of(chosen)
        trial.plain = plain.plain
        points = trial.run(trial.every_layer, None, sampling, args.alphas)
        written += rows_of(replace(arm, arm=f"{name}, {layer}", seed=seed), points)
        random_answers += trial.answers if name == "random direction" else []
    every = replace(arm, arm=f"random direction, {layer}", seed="+".join(map(str, args.draws)))
    written += pooled_rows(every, random_answers) if len(args.draws) > 1 else []
    replace_rows(args.results, written)
    for line in written:
        print(", ".join(str(line[name]) for name in COLUMNS[2:10]), flush=True)
    return written


def arms(features: FeatureSet, dense: FeatureSet | None, draws: Sequence[int]) -> dict[tuple[str, str], FeatureSet]:
    """What is compared: (arm, seed) → a feature set that writes a vector of the same length at the same alpha.

    Raises:
        ValueError: the features are of several layers, or the dense direction of another one.
    """
    own = typical_contributions(features)
    if len(own) != 1 or (dense is not None and typical_contributions(dense).keys() != own.keys()):
        of_dense = "none" if dense is None else sorted(typical_contributions(dense))
        raise ValueError(f"Features of layers {sorted(own)}, dense of {of_dense}: expected one layer, the same.")
    found = {("features", ""): features}
    if dense is not None:
        scaled = {
            layer: own[layer].norm() / vector.norm() * vector for layer, vector in typical_contributions(dense).items()
        }
        found["dense direction", ""] = along(features, scaled)
    for seed in draws:
        found["random direction", str(seed)] = along(features, random_like(own, seed))
    return found


def along(features: FeatureSet, directions: Mapping[int, Tensor]) -> FeatureSet:
    """A feature set that adds these directions at alpha 1; only good for steering."""
    layers = []
    for layer in features.layers:
        one = layer.take([0])
        layers.append(replace(one, direction=(directions[layer.layer] / one.typical)[None]))
    return replace(features, layers=tuple(layers), alpha=None)


def rows_of(arm: Arm, points: Sequence[Point]) -> Iterator[dict[str, Any]]:
    """How many answers loop at each alpha, and how much less fluent the text before the loop is."""
    for point in points:
        setting, loops = setting_of(point.alpha, point.temperature), point.loops
        yield row(RECIPE, arm, "responses that loop", setting, loops.rate, loops.low, loops.high, loops.total)
        if point.layers and point.ratio is not None:
            yield row(RECIPE, arm, "perplexity before the loop, ratio", setting, point.ratio, None, None, loops.total)


def pooled_rows(arm: Arm, answers: Sequence[SteeredAnswer]) -> Iterator[dict[str, Any]]:
    """The same for all random directions together; answers to one prompt belong together."""
    for alpha in sorted({one.alpha for one in answers}):
        own = [one for one in answers if one.alpha == alpha]
        loops = Share.of([one.looped for one in own], [one.prompt for one in own])
        setting = setting_of(alpha, own[0].temperature)
        yield row(RECIPE, arm, "responses that loop", setting, loops.rate, loops.low, loops.high, loops.total)


def setting_of(alpha: float, temperature: float) -> str:
    return f"norm of the features at alpha {alpha:g}, temperature {temperature:g}"


if __name__ == "__main__":
    with torch.no_grad():
        main()
