"""Do the repetition features cause loops? Suppress them where the model loops, and amplify them where it does not.

python recipes/real_weights/causality.py --model models/smollm2-135m --features real_weights/repetition.safetensors \
    --answers real_weights/answers-smollm2-135m-held_out_prompts-0.json --results benchmarks/results/real_weights.csv
--answers are those of the unchanged model, which repetition_rates.py keeps. Each layer is changed by itself, and beside
it stands the same with random directions of the same lengths.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from result_rows import COLUMNS, load_run, read_arm, replace_rows, row  # type: ignore[import-not-found]

from sae_posttrain import FeatureSet
from sae_posttrain.metrics import RepetitionReport, find_loop, repetition_rate
from sae_posttrain.metrics.loops import LoopSettings
from sae_posttrain.sampling import SamplingSettings, encode_prompts, sampler
from sae_posttrain.steering import steer, suppress, with_random_directions

RECIPE = "causality"
SEED = 0  # of the random directions


@dataclass(frozen=True)
class Trial:
    """One layer's features or random directions, at several strengths in one batch.

    Args:
        way: `suppress` or `amplify`.
        layer: the decoder block.
        control: whether the directions are random.
        strengths: for `suppress` shares of what the features write, for `amplify` alphas.
    """

    way: str
    layer: int
    control: bool
    strengths: tuple[float, ...]

    @property
    def arm(self) -> str:
        return f"{self.way}, layer {self.layer}{', random directions' if self.control else ''}"

    def editing(self, model: Any, features: FeatureSet, prompts: int) -> AbstractContextManager[None]:
        """The change of the model while it generates: each strength for every prompt."""
        chosen = features.select(layers=[self.layer])
        if self.control:
            chosen = with_random_directions(chosen, SEED)
        each = [strength for strength in self.strengths for _ in range(prompts)]
        if self.way == "suppress":
            return suppress(model, chosen, strength=each)
        return steer(model, chosen, alpha=each)


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the command; returns the rows of its results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--features", required=True, help="feature set of several layers, by `discover repetition`")
    parser.add_argument("--answers", type=Path, required=True, help="greedy answers of the unchanged model")
    parser.add_argument("--prompts", type=int, default=24, help="prompts of each kind (default: %(default)s)")
    parser.add_argument("--suppress", type=float, nargs="+", default=[1.0, 2.0], help="strengths (default: 1 2)")
    parser.add_argument("--amplify", type=float, nargs="+", default=[2.0, 4.0], help="alphas (default: 2 4)")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="of an answer (default: %(default)s)")
    parser.add_argument("--min-tokens", type=int, default=32, help="of a loop (default: %(default)s)")
    parser.add_argument("--results", type=Path, required=True, help="CSV; rows of the same arm are replaced")
    parser.add_argument("--dtype", default="bfloat16", help="of the model (default: %(default)s)")
    args = parser.parse_args(arguments)
    settings = LoopSettings(min_tokens=args.min_tokens)
    looping, ordinary = split(args.answers, args.prompts, settings)
    features = FeatureSet.load(args.features)
    model, tokenizer = load_run(args.model, args.dtype)
    written: list[dict[str, Any]] = []
    for trial in trials(features, args.suppress, args.amplify):
        prompts = looping if trial.way == "suppress" else ordinary
        for strength, report in run(trial, model, tokenizer, features, prompts, args.max_new_tokens, settings):
            kind = "loops" if trial.way == "suppress" else "does not loop"
            setting = f"strength {strength:g}, temperature 0, prompts on which the model {kind}"
            lines = rows_of(args.model, trial, setting, report)
            replace_rows(args.results, lines)
            written += lines
            for line in lines:
                print(", ".join(str(line[name]) for name in COLUMNS[2:10]), flush=True)
    return written


def split(path: Path, count: int, settings: LoopSettings) -> tuple[list[str], list[str]]:
    """The first prompts whose greedy answer ends in a loop, and the first whose answer does not.

    Raises:
        ValueError: there are none of one kind.
    """
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    kinds: dict[bool, list[str]] = {True: [], False: []}
    for one in rows:
        kinds[find_loop(one["ids"], settings, ended=one["ended"]) is not None].append(one["prompt"])
    if not (kinds[True] and kinds[False]):
        raise ValueError(f"{path}: {len(kinds[True])} of {len(rows)} answers end in a loop; expected some and not all.")
    return kinds[True][:count], kinds[False][:count]


def trials(features: FeatureSet, suppressed: Sequence[float], amplified: Sequence[float]) -> Iterator[Trial]:
    """Both ways for each layer, with its features and with random directions."""
    for layer in features.layers:
        for way, strengths in (("suppress", suppressed), ("amplify", amplified)):
            for control in (False, True):
                yield Trial(way, layer.layer, control, tuple(strengths))


@torch.no_grad()
def run(
    trial: Trial,
    model: Any,
    tokenizer: Any,
    features: FeatureSet,
    prompts: Sequence[str],
    max_new_tokens: int,
    settings: LoopSettings,
) -> Iterator[tuple[float, RepetitionReport]]:
    """Greedy answers to all prompts at each strength."""
    ids = encode_prompts(tokenizer, prompts, chat=True)
    drawing = sampler(model, tokenizer, SamplingSettings(0.0, top_p=1.0, max_new_tokens=max_new_tokens))
    with drawing as sample, trial.editing(model, features, len(prompts)):
        answers = sample(ids * len(trial.strengths))
    for place, strength in enumerate(trial.strengths):
        own = answers[place * len(prompts) :][: len(prompts)]
        ended = [one.ended for one in own]
        yield strength, repetition_rate([one.ids for one in own], settings, ended=ended)


def rows_of(model: Path, trial: Trial, setting: str, report: RepetitionReport) -> list[dict[str, Any]]:
    """The share of the answers that loop, and rep-4."""
    loops = report.loops
    arm = read_arm(model)
    arm = type(arm)(trial.arm, str(SEED) if trial.control else "", arm.model, arm.base, arm.commit)
    return [
        row(RECIPE, arm, "responses that loop", setting, loops.rate, loops.low, loops.high, loops.total),
        row(RECIPE, arm, "rep-4", setting, report.rep_4, None, None, loops.total),
    ]


if __name__ == "__main__":
    main()
