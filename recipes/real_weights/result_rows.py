"""The recipe's results: one CSV, a row for each number, and the runs that are measured."""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

COLUMNS = ("recipe", "model", "arm", "seed", "metric", "setting", "value", "low", "high", "n", "commit")
RECORD = "arm.json"  # arm.py writes it last: a folder that has it is finished
RESAMPLES = 10_000


@dataclass(frozen=True)
class Arm:
    """What a run is, as the columns of the results say it."""

    arm: str
    seed: str
    model: str
    base: str | None  # the model that an adapter belongs to
    commit: str


class OfArm(Protocol):
    """What was measured of a run."""

    @property
    def arm(self) -> Arm: ...


M = TypeVar("M", bound=OfArm)


def compared(
    found: Sequence[M], against: Sequence[M], together: Callable[[Arm, Sequence[M]], M]
) -> Iterator[tuple[M, M | None]]:
    """Each run beside the plain one of its seed, and all seeds of an arm together beside their plain ones.

    Args:
        found: what was measured of the runs.
        against: what was measured of the plain runs, one for each seed. A run without a seed stands beside the first.
        together: makes one of the seeds of an arm.

    Yields:
        A run and what it is compared with: None for a plain one, and without any `against`.
    """
    plain = {one.arm.seed: one for one in against}
    groups: dict[tuple[str, str], list[M]] = {}
    for one in (*against, *found):
        groups.setdefault((one.arm.model, one.arm.arm), []).append(one)
    for group in groups.values():
        others = [plain.get(one.arm.seed) or next(iter(against), None) for one in group]
        of_plain = bool(against) and group[0].arm.arm == against[0].arm.arm
        yield from ((one, None if of_plain else other) for one, other in zip(group, others, strict=True))
        if len(group) > 1:
            theirs = [] if of_plain else [other for other in others if other is not None]
            yield joined(group, together), joined(theirs, together) if theirs else None


def joined(group: Sequence[M], together: Callable[[Arm, Sequence[M]], M]) -> M:
    return together(replace(group[0].arm, seed="+".join(one.arm.seed for one in group)), group)


def read_arm(run: Path) -> Arm:
    """The arm of a folder that arm.py wrote; a folder of a model is the arm `base`."""
    if not (run / RECORD).exists():
        return Arm("base", "", run.name, None, commit())
    known = json.loads((run / RECORD).read_text(encoding="utf-8"))
    return Arm(known["label"], str(known["seed"]), known["model"], known["base"], known.get("commit") or commit())


def is_finished(folder: Path, described: Mapping[str, Any]) -> bool:
    """Whether the folder holds this very arm, trained to its end.

    Raises:
        ValueError: it holds another arm.
    """
    if not (folder / RECORD).exists():
        return False
    finished = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    if {name: finished.get(name) for name in described} != described:
        raise ValueError(f"{folder} holds another arm: {finished}. Give {described['label']} its own output_dir.")
    print(f"{folder} is finished; delete it to train {described['label']} anew.")
    return True


def add_runs(parser: argparse.ArgumentParser, recipe: str, *, required: bool) -> None:
    """The options of every script that measures runs: which ones, beside what, and where the rows go."""
    parser.add_argument(
        "--runs",
        type=Path,
        nargs="+",
        required=required,
        default=[],
        help="folders of arm.py, or of such folders; a model is `base`",
    )
    parser.add_argument(
        "--against", type=Path, nargs="+", default=[], help="the runs that those of the same seed are compared with"
    )
    parser.add_argument("--recipe", default=recipe, help="name of the experiment in the results")
    parser.add_argument("--texts", type=Path, required=True, help="folder that texts.py wrote")
    parser.add_argument("--results", type=Path, required=True, help="CSV; rows of the same arm and seed are replaced")


def finished_runs(folders: Sequence[Path]) -> list[Path]:
    """The folders, and in place of one that holds runs of arm.py, its finished runs."""
    return [run for folder in folders for run in (sorted(p.parent for p in folder.glob(f"*/{RECORD}")) or [folder])]


def load_run(run: Path, dtype: str) -> tuple[Any, Any]:
    """A run's model, with its adapter merged into the weights, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = read_arm(run).base
    model = AutoModelForCausalLM.from_pretrained(base or run, dtype=getattr(torch, dtype))
    if base:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, run).merge_and_unload()
    return model.eval(), AutoTokenizer.from_pretrained(run)


def commit() -> str:
    """The commit of this recipe, marked when its files were changed on top of it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+changes"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def row(
    recipe: str, arm: Arm, metric: str, setting: str, value: float, low: float | None, high: float | None, n: int
) -> dict[str, Any]:
    """One line of the results."""
    numbers = {"value": value, "low": low, "high": high}
    return {
        **{"recipe": recipe, "model": arm.model, "arm": arm.arm, "seed": arm.seed},
        **{"metric": metric, "setting": setting},
        **{name: "" if number is None else f"{number:.6f}" for name, number in numbers.items()},
        **{"n": n, "commit": arm.commit},
    }


def replace_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to the CSV, in place of those that say the same of the same arm and seed."""

    def key(line: dict[str, Any]) -> tuple[str, ...]:
        return tuple(str(line[name]) for name in COLUMNS[:6])

    kept: list[dict[str, Any]] = []
    new = {key(line) for line in rows}
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            kept = [line for line in csv.DictReader(file) if key(line) not in new]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *rows])


def ratio_interval(values_X: np.ndarray) -> tuple[float, float, float]:
    """Mean per token `(texts, 2)`, or the relative change of one `(texts, 4)`, with a 95% bootstrap interval."""
    drawn_RX = np.random.default_rng(0).multinomial(
        len(values_X), np.full(len(values_X), 1 / len(values_X)), size=RESAMPLES
    ) @ values_X.astype(float)
    whole_X = values_X.sum(0)
    value, drawn_R = whole_X[0] / whole_X[1], drawn_RX[:, 0] / drawn_RX[:, 1]
    if len(whole_X) == 4:
        value, drawn_R = value / (whole_X[2] / whole_X[3]) - 1, drawn_R / (drawn_RX[:, 2] / drawn_RX[:, 3]) - 1
    low, high = np.quantile(drawn_R, [0.025, 0.975])
    return float(value), float(low), float(high)


def held_out(path: Path, per_language: int, skip: int = 0) -> list[dict[str, Any]]:
    """`per_language` rows of each language, after the first `skip`."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    codes = dict.fromkeys(row["language"] for row in rows)
    return [row for code in codes for row in [one for one in rows if one["language"] == code][skip:][:per_language]]
