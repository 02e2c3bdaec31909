"""What the scripts on the causes of switches share: for each seed a plain run, its answers, and its features."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from result_rows import Arm, commit, load_run, read_arm  # type: ignore[import-not-found]

from sae_posttrain import FeatureSet
from sae_posttrain.inspection import SwitchPassage, find_passages
from sae_posttrain.texts import load_rows

RECIPE = "causality, switching"


@dataclass(frozen=True)
class Seed:
    """One seed's plain run, with what it sampled and the features that were found with it.

    Args:
        arm: what the run is.
        answers: rows with `prompt`, `response` and `language`.
        random: the control's features, drawn at random from the same SAEs; None without `--random`.
        texts: folder of the texts that the features were found with.
    """

    arm: Arm
    model: Any
    tokenizer: Any
    answers: list[dict[str, Any]]
    features: FeatureSet
    random: FeatureSet | None
    texts: Path


@dataclass(frozen=True)
class Pairs:
    """Switches into one language, and the same places in answers in the same language that do not switch.

    Args:
        switches: each with the place of its first foreign token.
        ordinary: each with a place as far into the answer as that of its switch, or the last token of a shorter answer.
    """

    switches: list[SwitchPassage]
    ordinary: list[SwitchPassage]


def add_seeds(parser: argparse.ArgumentParser) -> None:
    """The options of both scripts. Lists have one entry for each seed, in the same order."""
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="plain runs of arm.py, one for each seed")
    parser.add_argument("--answers", type=Path, nargs="+", required=True, help="what each run sampled, as .jsonl")
    parser.add_argument("--features", nargs="+", required=True, help="each seed's features, by `discover language`")
    parser.add_argument("--random", nargs="+", default=[], help="each seed's features by `--select random` (optional)")
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="each seed's folder of texts.py")
    parser.add_argument("--targets", nargs="+", default=["zh", "ko", "ru"], help="languages (default: zh ko ru)")
    parser.add_argument("--switches", type=int, default=100, help="of each seed and language (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="passages at once (default: %(default)s)")
    parser.add_argument("--dtype", default="bfloat16", help="of the model (default: %(default)s)")
    parser.add_argument("--results", type=Path, required=True, help="CSV; rows of the same arm and seed are replaced")


def seeds_of(args: argparse.Namespace) -> Iterator[Seed]:
    """Each seed in turn. Raises: ValueError for lists of different lengths."""
    random = args.random or [None] * len(args.runs)
    lists = {"runs": args.runs, "answers": args.answers, "features": args.features, "random": random}
    lists["texts"] = args.texts
    if len({len(one) for one in lists.values()}) > 1:
        counts = ", ".join(f"--{name} has {len(one)}" for name, one in lists.items())
        raise ValueError(f"{counts}; expected one entry for each seed.")
    for run, answers, features, control, texts in zip(*lists.values(), strict=True):
        model, tokenizer = load_run(run, args.dtype)
        rows = [dict(row) for row in load_rows(answers)]
        drawn = FeatureSet.load(control) if control else None
        yield Seed(read_arm(run), model, tokenizer, rows, FeatureSet.load(features), drawn, texts)


def pairs_of(seed: Seed, target: str, limit: int) -> Pairs:
    """The first switches into a language, each with an answer that does not switch, if there is one left."""
    passages = find_passages(seed.tokenizer, seed.answers, target, limit=limit)
    switches = [one for one in passages if one.place is not None]
    ordinary = [same_place(one, other) for one, other in pairwise(passages) if one.place and other.place is None]
    return Pairs(switches, ordinary)


def same_place(switch: SwitchPassage, ordinary: SwitchPassage) -> SwitchPassage:
    """The ordinary answer with a place as far behind its prompt as the switch is, or its last token."""
    assert switch.place is not None
    place = min(ordinary.start + switch.place - switch.start, len(ordinary.ids) - 1)
    return replace(ordinary, place=place)


def named(seed: Seed, name: str) -> Arm:
    """The seed's columns of the results, with this arm and the commit that measures it."""
    return replace(seed.arm, arm=name, commit=commit())


def together(arms: Sequence[Arm]) -> Arm:
    """The columns of all seeds of an arm together."""
    return replace(arms[0], seed="+".join(arm.seed for arm in arms))
