"""What a weight does in the course of a run, and how far a penalty can push: from runs of recipes/real_weights/arm.py.

python benchmarks/weight_course.py --runs runs/sasft-zh-0 runs/sasft-zh-auto-0 \
    --model models/gemma3-270m-cut --features real_weights/features.safetensors --texts real_weights/texts --suppress zh
Writes two CSVs: every logged step of the runs; and where the pre-activations of the features lie against their
baselines, in the model itself and in each run, on held-out answers of other languages.
"""

# S sequence, F features of one layer

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _rows import write
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_posttrain import FeatureSet
from sae_posttrain.residual import capture
from sae_posttrain.texts import load_rows

LOGGED = ("sasft_weight", "sasft_loss", "sasft_cost", "sasft_token_weight", "sasft_token_loss", "sasft_token_cost")


@dataclass(frozen=True)
class Step:
    """One number that a run logged."""

    arm: str
    seed: int
    step: int
    measure: str
    value: float


@dataclass(frozen=True)
class Spread:
    """Pre-activations of one feature on answers of other languages, against the language's own mean in the base model.

    Args:
        mean, deviation: of the pre-activations less the baseline of each answer's language.
        above: share of the tokens whose pre-activation is above that baseline, so that the penalty pushes them.
    """

    arm: str
    seed: int | None
    layer: int
    feature: int
    tokens: int
    mean: float
    deviation: float
    above: float


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="folders that arm.py wrote")
    parser.add_argument("--model", required=True, help="the model that the runs started from")
    parser.add_argument("--features", required=True, help="the feature set of the runs")
    parser.add_argument("--texts", type=Path, required=True, help="folder with held_out.jsonl")
    parser.add_argument("--suppress", required=True, help="the language that the runs keep out, by code")
    parser.add_argument("--per-language", type=int, default=20, help="held-out answers read (default: %(default)s)")
    args = parser.parse_args(arguments)
    write("weight_course", [step for run in args.runs for step in course(run)])
    spreads = [spread for run in (None, *args.runs) for spread in spread_of(run, args)]
    write("baseline_spread", spreads)
    for one in spreads:
        print(f"{one.arm} {one.seed}, layer {one.layer}: {one.mean:.0f} ± {one.deviation:.0f}, {one.above:.0%} above")


def course(run: Path) -> Iterator[Step]:
    arm = json.loads((run / "arm.json").read_text("utf-8"))
    for log in json.loads((run / "trainer_state.json").read_text("utf-8"))["log_history"]:
        for name, value in log.items():
            if name in LOGGED or name.startswith(("sasft_pre_activation", "sasft_token_mass")):
                yield Step(arm["label"], arm["seed"], log["step"], name, float(f"{value:.6g}"))


@torch.no_grad()
def spread_of(run: Path | None, args: argparse.Namespace) -> Iterator[Spread]:
    model: Any = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16)
    described: dict[str, Any] = {"label": "base", "seed": None}
    if run is not None:
        from peft import PeftModel

        described = json.loads((run / "arm.json").read_text("utf-8"))
        model = PeftModel.from_pretrained(model, str(run)).merge_and_unload()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    features = FeatureSet.load(args.features).select([args.suppress])
    rows = [row for row in load_rows(args.texts / "held_out.jsonl") if row["language"] != args.suppress]
    codes = dict.fromkeys(row["language"] for row in rows)
    rows = [row for code in codes for row in [one for one in rows if one["language"] == code][: args.per_language]]
    excess: dict[int, list[Tensor]] = {layer.layer: [] for layer in features.layers}
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        answer = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
        with capture(model, excess) as residuals:
            model.get_decoder()(torch.tensor([(prompt + answer)[:64]]))
        for layer in features.layers:
            pre_SF = residuals[layer.layer][0, len(prompt) :].float() @ layer.encoder.T + layer.bias
            excess[layer.layer].append(pre_SF - layer.baselines[row["language"]])
    for layer in features.layers:
        excess_SF = torch.cat(excess[layer.layer])
        for index, feature in enumerate(layer.ids):
            one_S = excess_SF[:, index]
            numbers = [float(f"{value:.4g}") for value in (one_S.mean(), one_S.std(), (one_S > 0).float().mean())]
            yield Spread(str(described["label"]), described["seed"], layer.layer, feature, len(one_S), *numbers)


if __name__ == "__main__":
    main()
