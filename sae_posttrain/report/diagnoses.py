"""What `diagnose` found: the ranked features with their tokens, and what cured the fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..metrics import Share, text_of
from .cards import Bar, Card, Excerpt, Token, public
from .run import Run, RunRow, explaining_damage

LONGEST = 600  # characters of an answer


@dataclass(frozen=True)
class TrialRow:
    """One test: some features, and random directions of the same length.

    Args:
        name: of the features.
        ablated, random_ablated: answers that still have the fault.
        amplified, random_amplified: good answers that got it; None without good prompts.
        p_value: of the difference between the first two.
        first_token, random_first_token: what is left of the probability of the first faulty token.
        is_cause: whether the features passed.
    """

    name: str
    ablated: Share
    random_ablated: Share
    amplified: Share | None
    random_amplified: Share | None
    p_value: float
    first_token: float
    random_first_token: float
    is_cause: bool


@dataclass(frozen=True)
class Cure:
    """An answer before and after the features of the best test were ablated."""

    prompt: str
    before: str
    after: str


@dataclass(frozen=True)
class DiagnosisFigure:
    """One diagnosis. `suspects` are ranked; `causes` are the names of those that passed; `cures` are examples."""

    fault: str
    model: str
    sae: str
    bad: int
    good: int
    verdict: str
    suspects: tuple[Card, ...]
    causes: frozenset[tuple[int, int]]
    trials: tuple[TrialRow, ...]
    cures: tuple[Cure, ...]


def diagnosis_figures(runs: Sequence[Run]) -> list[DiagnosisFigure]:
    """A figure for each file that `diagnose` wrote."""
    found = []
    for run in runs:
        for name, content in run.diagnoses.items():
            with explaining_damage(f"The diagnosis {name!r} in {run.folder}"):
                found.append(_figure(content))
    return found


def _figure(content: RunRow) -> DiagnosisFigure:
    fault, proof = str(content["fault"]), content["proof"]
    trials = tuple(map(_trial, proof["trials"])) if proof else ()
    return DiagnosisFigure(
        *(fault, public(str(content["model"])), public(str(content["sae"])), len(content["cases"])),
        good=int(content["good"]),
        verdict=_verdict(trials, proof),
        suspects=tuple(_card(one, fault) for one in content["suspects"]),
        causes=frozenset((int(layer), int(feature)) for layer, feature in content["kept"]),
        trials=trials,
        cures=tuple(_cure(*one) for one in proof["examples"]) if proof else (),
    )


def _trial(row: RunRow) -> TrialRow:
    shares = {name: _share(row[name]) for name in ("ablated", "random_ablated", "amplified", "random_amplified")}
    ablated, random_ablated = shares["ablated"], shares["random_ablated"]
    if ablated is None or random_ablated is None:
        raise ValueError("a test without answers")
    return TrialRow(
        *(_named(row["members"]), ablated, random_ablated, shares["amplified"], shares["random_amplified"]),
        p_value=float(row["ablating"]["p_value"]),
        first_token=float(row["first_token"]),
        random_first_token=float(row["random_first_token"]),
        is_cause=bool(row["is_cause"]),
    )


def _share(row: Mapping[str, float] | None) -> Share | None:
    if row is None:
        return None
    return Share(int(row["hits"]), int(row["total"]), float(row["low"]), float(row["high"]))


def _named(members: Sequence[Sequence[int]]) -> str:
    layers = list(dict.fromkeys(int(layer) for layer, _ in members))
    if len(members) == 1:
        return f"layer {layers[0]}, feature {int(members[0][1])}"
    return f"layer {layers[0]}, all {len(members)}" if len(layers) == 1 else f"all {len(members)} together"


def _verdict(trials: Sequence[TrialRow], proof: RunRow | None) -> str:
    if proof is None:
        return "Only ranked: nothing was tested, so that these features are suspects and no more."
    best = min(trials, key=lambda trial: trial.ablated.rate)
    told = (
        f"Without {best.name}, {best.ablated.hits} of {best.ablated.total} answers have the fault. With random "
        f"directions taken away instead, {best.random_ablated.hits} of {best.random_ablated.total}."
    )
    return f"{told} It is a cause." if best.is_cause else f"{told} No cause is proved by that."


def _card(row: RunRow, fault: str) -> Card:
    means = {fault: float(row["fault"]), "good": float(row["good"])}
    largest = max(*means.values(), 1e-12)
    bars = tuple(Bar(group, mean, max(0.0, mean / largest), None, group == fault) for group, mean in means.items())
    pieces = [(str(text), float(value)) for text, value in row["pieces"]]
    highest = max((value for _, value in pieces), default=0.0)
    tokens = tuple(Token(text, max(0.0, value / highest) if highest > 0 else 0.0, value) for text, value in pieces)
    numbers = int(row["layer"]), int(row["feature"])
    return Card(*numbers, fault, float(row["score"]), float(row["size"]), bars, (Excerpt("", tokens),))


def _cure(prompt: Any, before: str, after: str) -> Cure:
    asked = text_of(prompt[-1:] if isinstance(prompt, list) else prompt)
    return Cure(*(f"{text[:LONGEST]}…" if len(text) > LONGEST else text for text in (asked, str(before), str(after))))
