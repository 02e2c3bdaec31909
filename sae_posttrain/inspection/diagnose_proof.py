"""Whether features cause a fault: ablate them where it happens, amplify them where it does not, beside controls."""

# D model width, V vocabulary

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..feature_set import FeatureSet, LayerFeatures
from ..metrics import Share, compare_rates
from ..metrics.comparison import Difference
from ..residual import text_config
from ..steering import typical_contributions, with_random_directions
from .diagnose_answers import Counted, Edit, FaultAnswers, ProofSettings
from .diagnose_cases import EncodedCase, Fault
from .sweep import sweep_at_switches
from .trace import SwitchPassage

DEFAULT_PROOF = ProofSettings()
FEW = 10  # cases


@dataclass(frozen=True)
class CauseTest:
    """What some features did, beside random directions of the same lengths that fire as they do.

    Args:
        members: layer and feature of each.
        ablated, random_ablated: answers to the bad prompts that still have the fault.
        amplified, random_amplified: answers to good prompts that got it; None without good prompts.
        ablating, amplifying: the features' rate minus that of the random directions.
        first_token, random_first_token: probability of the first faulty token when what the features typically write is
            subtracted at the token before, as a share of that without it; means over the cases.
    """

    members: tuple[tuple[int, int], ...]
    ablated: Share
    random_ablated: Share
    ablating: Difference
    amplified: Share | None
    random_amplified: Share | None
    amplifying: Difference | None
    first_token: float
    random_first_token: float

    @property
    def is_cause(self) -> bool:
        """Whether the fault is rarer without these features than without random directions.

        From `FEW` cases on, the interval of the difference must be below 0 too; with fewer it could hardly be.
        """
        rarer = self.ablated.rate < self.random_ablated.rate
        return rarer and (self.ablating.prompts < FEW or self.ablating.high < 0)


@dataclass(frozen=True)
class Proof:
    """The trials of one diagnosis.

    Args:
        cases: bad cases that were answered again.
        before: answers to them with the fault, without any change of the model. Only prompts with at least one such
            answer are used in the trials.
        good_before: the same of good prompts; None without any.
        trials: each suspect by itself, then those of each layer together, then all of them.
        strength, alpha, controls: of the settings.
        examples: prompt, answer before, answer with the features of the best trial ablated; of some cases.
    """

    cases: int
    before: Share
    good_before: Share | None
    trials: tuple[CauseTest, ...]
    strength: float
    alpha: float
    controls: int
    examples: tuple[tuple[Any, str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "trials": [{**asdict(one), "is_cause": one.is_cause} for one in self.trials]}

    def table(self) -> str:
        """A line for each trial."""
        prompts = self.trials[0].ablating.prompts
        lines = [
            f"The model makes the fault again in {self.before.hits} of {self.before.total} answers to {self.cases} "
            f"cases; the {prompts} cases concerned are used below. Answers with the fault:",
            f"{'ablated':<28} {'features':>14} {'random':>14} {'p':>7}   {'amplified':>10} {'random':>8}   "
            f"{'1st token':>9} {'random':>7}",
        ]
        for trial in self.trials:
            up = "–" if trial.amplified is None else f"{trial.amplified.hits}/{trial.amplified.total}"
            other = trial.random_amplified
            lines.append(
                f"{members_in_words(trial.members):<28} {_count(trial.ablated):>14} {_count(trial.random_ablated):>14} "
                f"{trial.ablating.p_value:7.2g}   {up:>10} "
                f"{'–' if other is None else f'{other.hits}/{other.total}':>8}   {trial.first_token:9.1%} "
                f"{trial.random_first_token:7.1%}"
            )
        return "\n".join(lines)


def prove_causes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    features: FeatureSet,
    fault: Fault,
    bad: Sequence[EncodedCase],
    good: Sequence[EncodedCase],
    *,
    settings: ProofSettings = DEFAULT_PROOF,
    progress: bool = True,
) -> Proof:
    """Answer bad prompts with features ablated, and good ones with features amplified, beside random directions.

    Args:
        model, tokenizer: the model and its tokenizer.
        features: the suspects. Each is tested by itself, with the others of its layer, and with all others.
        fault: how the fault is told in an answer.
        bad, good: cases with and without the fault, as `encode_cases` gives them.
        settings: how many, how strongly, how sampled.
        progress: whether a progress bar is shown.

    Raises:
        ValueError: a case has no prompt, or the model makes the fault again in none of the answers.
    """
    if not all(case.prompt_ids for case in (*bad, *good)):
        raise ValueError(
            "A case has no prompt, so that it cannot be answered again. Leave out such cases, or rank only."
        )
    answers = FaultAnswers(model, tokenizer, fault, settings, progress)
    plain = Edit("ablate", 0.0, None)
    bad, good = bad[: settings.cases], good[: settings.cases]
    ((before, texts),) = answers.of([plain], bad, "bad cases again")
    if not any(hit for _, hit in before.outcomes):
        raise ValueError(
            f"The model makes the fault again in none of {len(before.outcomes)} answers to {len(bad)} bad cases, so "
            "that nothing can be cured. Sample as the cases were sampled: temperature, samples, max_new_tokens, chat."
        )
    failing = {prompt for prompt, hit in before.outcomes if hit}
    bad = [case for n, case in enumerate(bad) if n in failing]
    good_before, usable = None, list(good)
    if good:
        ((good_before, _),) = answers.of([plain], good, "good prompts")
        usable = [
            case for n, case in enumerate(good) if not any(hit for prompt, hit in good_before.outcomes if prompt == n)
        ]
    groups = _groups(features)
    controlled = [one for group in groups for one in (group, *_controls(group, settings.controls))]
    down = answers.of([Edit("ablate", settings.strength, one) for one in controlled], bad, "ablated")
    up = answers.of([Edit("amplify", settings.alpha, one) for one in controlled], usable, "amplified") if usable else []
    kept = _kept_probability(model, bad, controlled)
    size = 1 + settings.controls
    trials = []
    for n, group in enumerate(groups):
        own = slice(n * size, (n + 1) * size)
        trials.append(_trial(group, [one for one, _ in down[own]], [one for one, _ in up[own]], kept[own]))
    best = min(range(len(groups)), key=lambda n: trials[n].ablated.rate)
    cured = down[best * size][1]
    remaining = [text for n, text in enumerate(texts) if n // answers.samples in failing]
    examples = [
        (case.case.prompt, remaining[n * answers.samples], cured[n * answers.samples]) for n, case in enumerate(bad)
    ]
    return Proof(
        *(len(before.outcomes) // answers.samples, before.share, None if good_before is None else good_before.share),
        trials=tuple(trials),
        strength=settings.strength,
        alpha=settings.alpha,
        controls=settings.controls,
        examples=tuple(examples[:3]),
    )


def _trial(group: FeatureSet, down: Sequence[Counted], up: Sequence[Counted], kept: Sequence[float]) -> CauseTest:
    """From the results of the features, which come first, and of their controls."""
    ablated, random_ablated = down[0], _pooled(down[1:])
    amplified, random_amplified = (up[0], _pooled(up[1:])) if up else (None, None)
    return CauseTest(
        tuple((layer.layer, feature) for layer in group.layers for feature in layer.ids),
        ablated.share,
        random_ablated.share,
        compare_rates(ablated, random_ablated),
        None if amplified is None else amplified.share,
        None if random_amplified is None else random_amplified.share,
        None if amplified is None or random_amplified is None else compare_rates(amplified, random_amplified),
        kept[0],
        sum(kept[1:]) / len(kept[1:]),
    )


def _pooled(counted: Sequence[Counted]) -> Counted:
    return Counted(tuple(outcome for one in counted for outcome in one.outcomes))


def _groups(features: FeatureSet) -> list[FeatureSet]:
    """Each feature by itself, then those of each layer, then all; a group that was there already is left out."""
    layers = features.layers
    single: list[tuple[LayerFeatures, ...]] = [
        (layer.take([row]),) for layer in layers for row in range(len(layer.ids))
    ]
    groups = [*single, *((layer,) for layer in layers if len(layer.ids) > 1)]
    if len(layers) > 1:
        groups.append(tuple(layers))
    return [replace(features, layers=group) for group in groups]


def _controls(group: FeatureSet, count: int) -> list[FeatureSet]:
    return [with_random_directions(group, seed) for seed in range(count)]


def _kept_probability(model: PreTrainedModel, cases: Sequence[EncodedCase], sets: Sequence[FeatureSet]) -> list[float]:
    """For each set, what is left of the probability of the first faulty token when its directions are subtracted.

    Source: arXiv:2605.11887, section 7.2, Eq. 25.
    """
    size = text_config(model).vocab_size
    edits = [{}, *({layer: -one_D for layer, one_D in typical_contributions(one).items()} for one in sets)]
    summed_E = torch.zeros(len(edits))
    for case in cases:
        assert case.fault is not None
        first = case.fault[0]
        tokens_V = torch.zeros(size, dtype=torch.bool)
        tokens_V[case.ids[first]] = True
        passage = SwitchPassage(case.ids[: first + 1], case.start, first)
        summed_E += sweep_at_switches(model, [passage], tokens_V, edits)[0]
    return (summed_E[1:] / summed_E[0].clamp(min=1e-12)).tolist()


def members_in_words(members: Sequence[tuple[int, int]]) -> str:
    """What a trial is called."""
    layers = list(dict.fromkeys(layer for layer, _ in members))
    if len(members) == 1:
        return f"layer {layers[0]} feature {members[0][1]}"
    if len(layers) == 1:
        return f"layer {layers[0]}, its {len(members)} features"
    return f"all {len(members)} features"


def _count(share: Share) -> str:
    return f"{share.hits}/{share.total} ({share.rate:.0%})"
