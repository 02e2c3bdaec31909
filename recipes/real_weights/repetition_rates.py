"""Measure arms of the experiment on repetition: how often answers to held-out prompts end in a loop, and their task.

python recipes/real_weights/repetition_rates.py --runs models/smollm2-135m runs --against runs/dapo-0 \
    --prompts real_weights/texts/held_out_prompts.jsonl --results real_weights.csv
A folder of --runs is one that repetition.py wrote, one that holds several of them, or a model itself: the arm `base`.
The answers are kept beside each run (in --keep for a model), so that a second call only compares.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from result_rows import (  # type: ignore[import-not-found]
    COLUMNS,
    RECORD,
    Arm,
    compared,
    finished_runs,
    load_run,
    ratio_interval,
    read_arm,
    replace_rows,
    row,
)
from story_reward import about_the_subject  # type: ignore[import-not-found]

from sae_posttrain.metrics import RepetitionReport, repetition_rate
from sae_posttrain.metrics.loops import LoopSettings
from sae_posttrain.sampling import SamplingSettings, sample_responses
from sae_posttrain.texts import load_rows

RECIPE = "repetition"


@dataclass(frozen=True)
class Answers:
    """Answers of one run, or of several seeds of an arm, at one temperature.

    Args:
        arm: the run.
        temperature: 0 is greedy.
        rows: for each answer its prompt, subject, text, token ids and whether the model ended it.
    """

    arm: Arm
    temperature: float
    rows: tuple[dict[str, Any], ...]

    @property
    def report(self) -> RepetitionReport:
        return repetition_rate(
            [one["ids"] for one in self.rows],
            LoopSettings(min_tokens=self.rows[0]["min_tokens"]),
            ended=[one["ended"] for one in self.rows],
            clusters=[one["prompt"] for one in self.rows],
        )

    @property
    def rewards(self) -> list[float]:
        """The task reward of each answer."""
        texts = [one["text"] for one in self.rows]
        scores: list[float] = about_the_subject(texts, texts, subject=[one["subject"] for one in self.rows])
        return scores


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the command; returns the rows of its results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="runs, folders of runs, or a model")
    parser.add_argument("--against", type=Path, nargs="*", default=[], help="runs that others of their seed stand by")
    parser.add_argument("--prompts", type=Path, required=True, help=".jsonl file that prompts.py wrote")
    parser.add_argument("--limit", type=int, default=400, help="prompts read, for each temperature (default: 400)")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0], help="default: %(default)s")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="of an answer (default: %(default)s)")
    parser.add_argument("--min-tokens", type=int, default=32, help="of a loop (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=200, help="answers sampled at once (default: %(default)s)")
    parser.add_argument("--keep", type=Path, help="folder for the answers of a model (default: that of --results)")
    parser.add_argument("--results", type=Path, required=True, help="CSV; rows of the same arm and seed are replaced")
    parser.add_argument("--dtype", default="bfloat16", help="of the model (default: %(default)s)")
    args = parser.parse_args(arguments)
    for run in [run for run in args.against if not (run / RECORD).exists()]:
        print(f"{run} is not finished; its seed is compared with the first of --against.")
        args.against.remove(run)
    plain = set(map(Path.resolve, args.against))
    written: list[dict[str, Any]] = []
    for temperature in args.temperatures:
        against = [answers(run, temperature, args) for run in args.against]
        runs = [run for run in finished_runs(args.runs) if run.resolve() not in plain]
        found = [answers(run, temperature, args) for run in runs]
        for one, other in compared(found, against, together):
            written += [*own_rows(one, args.prompts.stem), *compared_rows(one, other, args.prompts.stem)]
    written += training_rows(dict.fromkeys([*args.against, *finished_runs(args.runs)]))
    replace_rows(args.results, written)
    for line in written:
        print(", ".join(str(line[name]) for name in COLUMNS[2:10]), flush=True)
    return written


def together(arm: Arm, seeds: Sequence[Answers]) -> Answers:
    """The answers of all seeds; those to one prompt belong together."""
    return Answers(arm, seeds[0].temperature, tuple(one for seed in seeds for one in seed.rows))


def answers(run: Path, temperature: float, args: argparse.Namespace) -> Answers:
    """What is kept of an earlier call with the same settings, or sampled now."""
    names = ("limit", "max_new_tokens", "min_tokens", "batch_size", "dtype")
    settings = {
        "prompts": args.prompts.stem,
        "temperature": temperature,
        **{name: getattr(args, name) for name in names},
    }
    folder = run if (run / RECORD).exists() else args.keep or args.results.parent
    kept = folder / file_of_answers(run, args.prompts, temperature)
    if kept.exists():
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known["settings"] == settings:
            return Answers(read_arm(run), temperature, tuple(known["rows"]))
    prompts = load_rows(args.prompts)[: args.limit]
    model, tokenizer = load_run(run, args.dtype)
    with torch.no_grad():
        sampled = sample_responses(
            model,
            tokenizer,
            [one["prompt"] for one in prompts],
            SamplingSettings(temperature, top_p=1.0, max_new_tokens=args.max_new_tokens),
            samples=1,
            batch_size=args.batch_size,
            chat=True,
            progress=False,
        )
    rows = [
        {**prompt, "text": one.text, "ids": list(one.ids), "ended": one.ended, "min_tokens": args.min_tokens}
        for prompt, (one,) in zip(prompts, sampled, strict=True)
    ]
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"settings": settings, "rows": rows}), encoding="utf-8")
    return Answers(read_arm(run), temperature, tuple(rows))


def file_of_answers(run: Path, prompts: Path, temperature: float) -> str:
    return f"answers-{run.name}-{prompts.stem}-{temperature:g}.json"


def own_rows(found: Answers, prompts: str) -> Iterator[dict[str, Any]]:
    """Loops, near-loops, rep-4, task reward and length."""
    report, setting = found.report, setting_of(found, prompts)
    loops = report.loops

    def line(metric: str, value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
        made: dict[str, Any] = row(RECIPE, found.arm, metric, setting, value, low, high, loops.total)
        return made

    yield line("responses that loop", loops.rate, loops.low, loops.high)
    yield line("responses that end in a near-loop and not in a loop", report.near_looped / loops.total)
    yield line("rep-4", report.rep_4)
    yield line("task reward", *interval([(value, 1.0) for value in found.rewards], found))
    yield line("tokens of a response", fmean(len(one["ids"]) for one in found.rows))


def compared_rows(found: Answers, against: Answers | None, prompts: str) -> Iterator[dict[str, Any]]:
    """The relative change of loops and of the task reward, paired by prompt and seed; none for a model without one."""
    if against is None or not found.arm.seed:
        return
    setting = setting_of(found, prompts)
    for name, ours, theirs in (
        ("responses that loop", loops(found), loops(against)),
        ("task reward", found.rewards, against.rewards),
    ):
        if sum(theirs):
            pairs = [(own, 1.0, other, 1.0) for own, other in zip(ours, theirs, strict=True)]
            metric = f"change of {name} against {against.arm.arm}"
            yield row(RECIPE, found.arm, metric, setting, *interval(pairs, found), len(pairs))


def training_rows(runs: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """What runs logged of their own rollouts, and the seeds of an arm together; nothing for a model."""
    groups: dict[str, list[tuple[Arm, dict[str, Any]]]] = {}
    for run in runs:
        if (run / RECORD).exists():
            record = json.loads((run / RECORD).read_text(encoding="utf-8"))
            groups.setdefault(record["label"], []).append((read_arm(run), record))
    for group in groups.values():
        for members in [*([one] for one in group), *([group] if len(group) > 1 else [])]:
            arm = replace(members[0][0], seed="+".join(arm.seed for arm, _ in members))
            yield from rollout_rows(arm, [record for _, record in members])


def rollout_rows(arm: Arm, records: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The share of the rollouts that loop, for the chosen one of each group and for the others, and the time."""
    first = records[0]
    setting = f"temperature {first['temperature']:g}, in training"
    groups = first["max_steps"] * first["prompts_per_step"] * len(records)
    chosen = first["logged"]["loop_rate/steered"] is not None
    counts = {"steered": ("chosen", groups), "ordinary": ("other", groups * (first["num_generations"] - chosen))}
    for name, (which, count) in counts.items():
        if first["logged"][f"loop_rate/{name}"] is not None:
            value = fmean(record["logged"][f"loop_rate/{name}"] for record in records)
            yield row(RECIPE, arm, f"{which} rollouts that loop", setting, value, None, None, count)
    seconds = fmean(record["cpu_seconds"] for record in records)
    yield row(RECIPE, arm, "CPU seconds", "in training", seconds, None, None, len(records))


def loops(found: Answers) -> list[float]:
    """1 for each answer that ends in a loop, else 0."""
    return [float(looped) for _, looped in found.report.outcomes]


def interval(values: Sequence[tuple[float, ...]], found: Answers) -> tuple[float, float | None, float | None]:
    """`ratio_interval` of sums over each prompt, so that the seeds' answers to it are drawn together.

    A change has no bounds where some draws of the prompts hold nothing to compare with.
    """
    sums: dict[str, np.ndarray] = {}
    for one, value in zip(found.rows, values, strict=True):
        sums[one["prompt"]] = sums.get(one["prompt"], 0) + np.array(value)
    with np.errstate(divide="ignore", invalid="ignore"):
        value, low, high = ratio_interval(np.stack(list(sums.values())))
    return value, *(bound if np.isfinite(bound) else None for bound in (low, high))


def setting_of(found: Answers, prompts: str) -> str:
    return f"temperature {found.temperature:g}, {prompts.removesuffix('_prompts')} prompts"


if __name__ == "__main__":
    main()
