"""Do the repetition features cause loops? Suppress them where the model loops, and amplify them where it does not.

python recipes/real_weights/causality.py --model models/smollm2-135m --features real_weights/repetition.safetensors \
    --answers real_weights/answers-smollm2-135m-held_out_prompts-0.json --results benchmarks/results/real_weights.csv
--answers are those of the unchanged model, which repetition_rates.py keeps. Each layer is changed by itself, and beside
it stands the same with several draws of random directions of the same lengths.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from result_rows import COLUMNS, load_run, read_arm, replace_rows, row  # type: ignore[import-not-found]

from sae_posttrain import FeatureSet
from sae_posttrain.metrics import find_loop, repetition_rate
from sae_posttrain.metrics.loops import LoopSettings
from sae_posttrain.sampling import (
    Response,
    SampleRequest,
    SamplingSettings,
    TransformersEngine,
    encode_prompts,
    sample_requests,
)
from sae_posttrain.steering import ablate, steer, with_random_directions

RECIPE = "causality"


@dataclass(frozen=True)
class Trial:
    """One layer's features or random directions, at one strength.

    Args:
        way: `suppress` or `amplify`.
        layer: the decoder block.
        draw: the seed of the random directions; None for the features themselves.
        strength: for `suppress` the share of what the features write, for `amplify` alpha.
    """

    way: str
    layer: int
    draw: int | None
    strength: float

    @property
    def arm(self) -> str:
        return f"{self.way}, layer {self.layer}{'' if self.draw is None else ', random directions'}"

    def editing(self, model: Any, features: FeatureSet, rows: Sequence[bool]) -> AbstractContextManager[None]:
        """The change of the model for these rows of a batch, while it generates."""
        chosen = features.select(layers=[self.layer])
        if self.draw is not None:
            chosen = with_random_directions(chosen, self.draw)
        each = [self.strength * row for row in rows]
        if self.way == "suppress":
            return ablate(model, chosen, strength=each)
        return steer(model, chosen, alpha=each)


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the command; returns the rows of its results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--features", required=True, help="feature set of several layers, by `discover repetition`")
    parser.add_argument("--answers", type=Path, required=True, help="greedy answers of the unchanged model")
    parser.add_argument("--prompts", type=int, default=24, help="prompts of each kind (default: %(default)s)")
    parser.add_argument("--layers", type=int, nargs="+", help="decoder blocks to change (default: all of --features)")
    parser.add_argument(
        "--suppress", type=float, nargs="*", default=[1.0, 2.0], help="strengths of ablation (default: 1 2)"
    )
    parser.add_argument("--amplify", type=float, nargs="*", default=[4.0], help="alphas (default: 4)")
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2], help="seeds of the random directions")
    parser.add_argument("--batch-size", type=int, default=160, help="answers sampled at once (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="of an answer (default: %(default)s)")
    parser.add_argument("--min-tokens", type=int, default=32, help="of a loop (default: %(default)s)")
    parser.add_argument("--results", type=Path, required=True, help="CSV; rows of the same arm are replaced")
    parser.add_argument("--dtype", default="bfloat16", help="of the model (default: %(default)s)")
    args = parser.parse_args(arguments)
    settings = LoopSettings(min_tokens=args.min_tokens)
    looping, ordinary = split(args.answers, args.prompts, settings)
    features = FeatureSet.load(args.features).select(layers=args.layers)
    model, tokenizer = load_run(args.model, args.dtype)
    written: list[dict[str, Any]] = []
    settings_and_tokens = (settings, args.max_new_tokens, args.batch_size)
    for way, prompts, strengths in (("suppress", looping, args.suppress), ("amplify", ordinary, args.amplify)):
        planned = list(trials(features, way, strengths, args.draws))
        answers = run(planned, model, tokenizer, features, prompts, *settings_and_tokens)
        written += rows_of(args.model, way, prompts, answers, settings)
    replace_rows(args.results, written)
    for line in written:
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


def trials(features: FeatureSet, way: str, strengths: Sequence[float], draws: Sequence[int]) -> Iterator[Trial]:
    """Each layer's features and random directions, at each strength."""
    for layer in features.layers:
        for draw in (None, *draws):
            yield from (Trial(way, layer.layer, draw, strength) for strength in strengths)


@torch.no_grad()
def run(
    planned: Sequence[Trial],
    model: Any,
    tokenizer: Any,
    features: FeatureSet,
    prompts: Sequence[str],
    settings: LoopSettings,
    max_new_tokens: int,
    batch_size: int,
) -> dict[Trial, list[Response]]:
    """Greedy answers to all prompts in every trial; a batch holds rows of several trials."""

    @contextmanager
    def edited(batch: Sequence[SampleRequest]) -> Iterator[None]:
        numbers = [request.extra_args["trial"] for request in batch]
        with ExitStack() as edits:
            for number in dict.fromkeys(numbers):
                mask = [own == number for own in numbers]
                edits.enter_context(planned[number].editing(model, features, mask))
            yield

    engine = TransformersEngine(model, tokenizer, batch_size, around=edited)
    encoded = encode_prompts(tokenizer, prompts, chat=True)
    requests = {
        (number, place, 0): SampleRequest(ids, extra_args={"trial": number})
        for number in range(len(planned))
        for place, ids in enumerate(encoded)
    }
    greedy = SamplingSettings(0.0, top_p=1.0, max_new_tokens=max_new_tokens)
    found = sample_requests(engine, requests, greedy).found
    return {trial: [found[number, place, 0] for place in range(len(prompts))] for number, trial in enumerate(planned)}


def rows_of(
    model: Path, way: str, prompts: Sequence[str], answers: Mapping[Trial, Sequence[Response]], settings: LoopSettings
) -> Iterator[dict[str, Any]]:
    """The share of the answers that loop, and rep-4: of every draw, and of all draws of random directions together."""
    kind = "loops" if way == "suppress" else "does not loop"
    grouped: dict[tuple[str, float], list[Trial]] = {}
    for trial in answers:
        grouped.setdefault((trial.arm, trial.strength), []).append(trial)
    for (name, strength), group in grouped.items():
        setting = f"strength {strength:g}, temperature 0, prompts on which the model {kind}"
        for members in [*([one] for one in group), *([group] if len(group) > 1 else [])]:
            own = [one for trial in members for one in answers[trial]]
            report = repetition_rate(
                [one.ids for one in own],
                settings,
                ended=[one.ended for one in own],
                clusters=list(prompts) * len(members),
            )
            loops, seed = report.loops, "+".join(str(one.draw) for one in members if one.draw is not None)
            arm = replace(read_arm(model), arm=name, seed=seed)
            yield row(RECIPE, arm, "responses that loop", setting, loops.rate, loops.low, loops.high, loops.total)
            yield row(RECIPE, arm, "rep-4", setting, report.rep_4, None, None, loops.total)


if __name__ == "__main__":
    main()
