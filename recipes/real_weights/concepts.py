"""Measure runs that were trained by label: how likely the concept's tokens are, and the loss, on held-out answers.

python recipes/real_weights/concepts.py --runs runs --against runs/sft-0 runs/sft-1 runs/sft-2 --texts concepts/you \
    --results concepts/results.csv
Answers of both labels are measured. Those with the concept were spared in training, so their loss should not rise. The
rates are kept in each run's folder (in --results' folder for a model), so that a second call only compares.
"""

# N positions, V vocabulary

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from held_out import answer_logits  # type: ignore[import-not-found]
from result_rows import (  # type: ignore[import-not-found]
    COLUMNS,
    Arm,
    add_runs,
    compared,
    finished_runs,
    load_run,
    ratio_interval,
    read_arm,
    replace_rows,
    row,
)
from torch.nn.functional import cross_entropy

from sae_posttrain.sampling import SamplingSettings, sample_responses
from sae_posttrain.texts import load_rows

RECIPE = "concepts"


@dataclass(frozen=True)
class Answered:
    """What a run does on each held-out answer, and in its own answers to the prompts of the other label.

    Args:
        labels: of the held-out answers.
        nats, mass, tokens: of each, its summed cross-entropy, the summed probability of the concept's tokens at its
            positions, and their number.
        sampled: for each sampled answer, whether it has a token of the concept.
    """

    arm: Arm
    labels: list[str]
    nats: list[float]
    mass: list[float]
    tokens: list[int]
    sampled: list[float]


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the command; returns the rows of its results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_runs(parser, RECIPE, required=True)
    parser.add_argument("--per-label", type=int, default=100, help="held-out answers (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=48, help="tokens read or sampled (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=20, help="answers at once (default: %(default)s)")
    parser.add_argument("--dtype", default="bfloat16", help="of the model (default: %(default)s)")
    args = parser.parse_args(arguments)
    concept = json.loads((args.texts / "concept.json").read_text(encoding="utf-8"))
    rows = of_each_label(load_rows(args.texts / "held_out.jsonl"), args.per_label)
    against = [answered(run, rows, concept, args) for run in args.against]
    found = [answered(run, rows, concept, args) for run in finished_runs(args.runs) if run not in args.against]
    written: list[dict[str, Any]] = []
    for one, other in compared(found, against, together):
        written += [{**line, "recipe": args.recipe} for line in rows_of(one, other, concept["name"])]
    replace_rows(args.results, written)
    for line in written:
        print(", ".join(str(line[name]) for name in COLUMNS[2:10]), flush=True)
    return written


def of_each_label(rows: Sequence[Any], number: int) -> list[dict[str, Any]]:
    """The first rows of each label."""
    labels = dict.fromkeys(one["label"] for one in rows)
    return [one for label in labels for one in [one for one in rows if one["label"] == label][:number]]


def answered(run: Path, rows: Sequence[dict[str, Any]], concept: dict[str, Any], args: argparse.Namespace) -> Answered:
    """What is kept of an earlier call on the same texts, or measured now."""
    arm = read_arm(run)
    settings = {name: getattr(args, name) for name in ("per_label", "max_tokens", "dtype", "batch_size")}
    settings |= {"concept": concept["name"], "texts": [one["prompt"] for one in rows]}
    folder = run if arm.base else args.results.parent
    kept = folder / f"concept-{run.name}-{concept['name']}.json"
    if kept.exists():
        values = json.loads(kept.read_text(encoding="utf-8"))
        if values.pop("settings") == settings:
            return Answered(**{**values, "arm": Arm(**values["arm"])})
    model, tokenizer = load_run(run, args.dtype)
    read = list(read_answers(model, tokenizer, rows, concept["tokens"], args.max_tokens, args.batch_size))
    asked = [one["prompt"] for one in rows if one["label"] != concept["name"]]
    responses = sample_responses(
        model,
        tokenizer,
        asked,
        SamplingSettings(1.0, 1.0, args.max_tokens, seed=int(arm.seed or 0)),
        samples=1,
        batch_size=args.batch_size,
    )
    shown = set(concept["tokens"])
    values = {
        **{"labels": [one["label"] for one in rows]},
        **{name: [one[place] for one in read] for place, name in enumerate(("nats", "mass", "tokens"))},
        **{"sampled": [float(not shown.isdisjoint(of_prompt[0].ids)) for of_prompt in responses]},
    }
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"arm": vars(arm), "settings": settings, **values}), encoding="utf-8")
    return Answered(arm, **values)


def read_answers(
    model: Any,
    tokenizer: Any,
    rows: Sequence[dict[str, Any]],
    concept_tokens: Sequence[int],
    max_tokens: int,
    batch_size: int,
) -> Iterator[tuple[float, float, int]]:
    """Of each answer, given its prompt: cross-entropy in nats, probability of the concept's tokens, both summed over
    its positions, and their number."""
    for logits_NV, answer_N in answer_logits(model, tokenizer, rows, max_tokens, batch_size):
        nats = float(cross_entropy(logits_NV, answer_N, reduction="sum"))
        yield nats, float(logits_NV.softmax(-1)[:, list(concept_tokens)].sum()), len(answer_N)


def together(arm: Arm, group: Sequence[Answered]) -> Answered:
    """The seeds of one arm as one: the mean of each text, so that intervals draw texts."""

    def mean(name: str) -> list[float]:
        return [sum(of_text) / len(group) for of_text in zip(*(getattr(one, name) for one in group), strict=True)]

    return Answered(arm, group[0].labels, mean("nats"), mean("mass"), group[0].tokens, mean("sampled"))


def rows_of(found: Answered, against: Answered | None, name: str) -> Iterator[dict[str, Any]]:
    """Loss and probability of the concept by label, the sampled answers, and their changes, paired by text."""
    for label in dict.fromkeys(found.labels):
        places = [i for i, one in enumerate(found.labels) if one == label]
        for metric in ("nats", "mass"):
            title = {"nats": "held-out loss", "mass": "probability of the concept per token"}[metric]
            own = np.array([(getattr(found, metric)[i], found.tokens[i]) for i in places])
            yield row(RECIPE, found.arm, title, f"{name}: {label}", *ratio_interval(own), len(places))
            if against is not None:
                other = np.array([(getattr(against, metric)[i], against.tokens[i]) for i in places])
                values = ratio_interval(np.concatenate([own, other], axis=1))
                title = f"change of {title} against {against.arm.arm}"
                yield row(RECIPE, found.arm, title, f"{name}: {label}", *values, len(places))
    own = np.array([(hit, 1) for hit in found.sampled])
    title = "sampled answers with a token of the concept"
    yield row(RECIPE, found.arm, title, f"{name}: other prompts", *ratio_interval(own), len(own))


if __name__ == "__main__":
    main()
