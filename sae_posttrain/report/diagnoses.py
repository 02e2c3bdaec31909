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
class AnswerRow:
    """Answers with the fault: without the features, random directions or the difference of means; or with more of them.

    Args:
        own, random, dense: the three; `dense` is None if it was not tested.
    """

    own: Share
    random: Share
    dense: Share | None


@dataclass(frozen=True)
class TrialRow:
    """One test: some features, and random directions of the same length.

    Args:
        name: of the features.
        ablated: bad answers that still have the fault; None if the proof is by probability.
        amplified: good answers that got it; None without good prompts.
        p_value, corrected_p: of the difference to random directions, before and after Holm's correction.
        left, random_left, dense_left: what is left of the probability of the first faulty token. `random_left` is the
            lowest and the highest of all draws.
        raised, random_raised: by what that probability is multiplied in good answers; None if it was not read.
        verdict: `a cause`, `a hint` or nothing.
    """

    name: str
    ablated: AnswerRow | None
    amplified: AnswerRow | None
    p_value: float
    corrected_p: float
    left: float
    random_left: tuple[float, float]
    dense_left: float | None
    raised: float | None
    random_raised: float | None
    verdict: str


@dataclass(frozen=True)
class Cure:
    """An answer before and after the features of the best test were ablated."""

    prompt: str
    before: str
    after: str


@dataclass(frozen=True)
class DiagnosisFigure:
    """One diagnosis.

    Args:
        suspects: ranked features.
        causes: (layer, feature) of the set that was written → whether it passed alone or with others.
        cures: examples.
    """

    fault: str
    model: str
    sae: str
    bad: int
    good: int
    verdict: str
    suspects: tuple[Card, ...]
    causes: Mapping[tuple[int, int], str]
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
        causes=_causes(content["kept"], proof["trials"]) if proof else {},
        trials=trials,
        cures=tuple(_cure(*one) for one in proof["examples"]) if proof else (),
    )


def _causes(kept: Sequence[Sequence[int]], trials: Sequence[RunRow]) -> dict[tuple[int, int], str]:
    """What is marked beside each feature of the set that was written: it passed, or a test in which it stands did."""
    passed = [{(int(layer), int(feature)) for layer, feature in one["members"]} for one in trials if one["is_cause"]]
    features = [(int(layer), int(feature)) for layer, feature in kept] if passed else []
    return {one: "a cause" if {one} in passed else "part of a cause" for one in features}


def _trial(row: RunRow) -> TrialRow:
    token = row["token"]
    random = [float(one) for one in token["random_left"]]
    raised = token["random_raised"]
    return TrialRow(
        *(_named(row["members"]), _answers(row, "ablated"), _answers(row, "amplified")),
        p_value=float(row["p_value"]),
        corrected_p=float(row["corrected_p"]),
        left=float(token["left"]),
        random_left=(min(random), max(random)),
        dense_left=None if token["dense_left"] is None else float(token["dense_left"]),
        raised=None if token["raised"] is None else float(token["raised"]),
        random_raised=sum(map(float, raised)) / len(raised) if raised else None,
        verdict="a cause" if row["is_cause"] else "a hint" if row["is_hint"] else "",
    )


def _answers(row: RunRow, name: str) -> AnswerRow | None:
    answers = row["answers"]
    if answers is None or (answers[name] is None and name == "amplified"):
        return None
    own, random = _share(answers[name]), _share(answers[f"random_{name}"])
    if own is None or random is None:
        raise ValueError("a test without answers")
    return AnswerRow(own, random, _share(answers[f"dense_{name}"]))


def _share(row: Mapping[str, float] | None) -> Share | None:
    if row is None:
        return None
    return Share(int(row["hits"]), int(row["total"]), float(row["low"]), float(row["high"]))


def _named(members: Sequence[Sequence[int]]) -> str:
    layers = list(dict.fromkeys(int(layer) for layer, _ in members))
    if len(members) == 1:
        return f"layer {layers[0]}, feature {int(members[0][1])}"
    return f"the {len(members)} features of layer {layers[0]}" if len(layers) == 1 else f"all {len(members)} features"


def _verdict(trials: Sequence[TrialRow], proof: RunRow | None) -> str:
    if proof is None:
        return "Only ranked: nothing was tested, so these features are only suspects."
    answered = [(trial, trial.ablated) for trial in trials if trial.ablated is not None]
    if answered:
        best, found = min(answered, key=lambda one: (*_rank(one[0]), one[1].own.rate))
        told = (
            f"Without {best.name}, {found.own.hits} of {found.own.total} answers have the fault. With random "
            f"directions removed instead, {found.random.hits} of {found.random.total} have it."
        )
    else:
        best = min(trials, key=lambda trial: (*_rank(trial), trial.left))
        told = (
            f"The first faulty token of {int(proof['cases'])} cases has a mean probability of "
            f"{float(proof['probability']):.2%}. Without {best.name}, {best.left:.1%} of it is left. With random "
            f"directions removed instead, {best.random_left[0]:.0%} to {best.random_left[1]:.0%} is left."
        )
    if best.verdict == "a cause":
        return f"{told} This proves a cause."
    return (
        f"{told} That is a hint; the cases are too few for a proof." if best.verdict else f"{told} No cause is proved."
    )


def _rank(trial: TrialRow) -> tuple[bool, bool]:
    """Tests that passed stand before hints, and hints before all others."""
    return trial.verdict != "a cause", not trial.verdict


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
