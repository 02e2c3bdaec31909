"""Whether features cause a fault: ablate them where it happens, amplify them where it does not, beside controls."""

# D model width

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..feature_set import FeatureSet, LayerFeatures
from ..metrics import Share
from ..steering import with_random_directions
from .diagnose_answers import Counted, Edit, FaultAnswers, Members, ProofSettings, ProveBy
from .diagnose_cases import EncodedCase, Fault
from .diagnose_tokens import FirstTokens, along
from .diagnose_trials import (
    AnswerTest,
    CauseTest,
    answer_test,
    corrected,
    members_in_words,
    members_of,
    token_test,
)

DEFAULT_PROOF = ProofSettings()
DENSE = "difference of means"


@dataclass(frozen=True)
class Proof:
    """The tests of one diagnosis.

    Args:
        by: `answers` or `probability`.
        cases: bad cases that were answered again, or whose probability was read.
        before: answers to them with the fault, without any change of the model. Only prompts with at least one such
            answer are used in the tests. None if the proof is by probability.
        good_before: the same of good prompts; None without any.
        probability: mean probability of the first faulty token, without a change.
        trials: each suspect by itself, then those of each layer together, then all of them.
        strength, alpha, controls: of the settings.
        examples: prompt, answer before, answer with the features of the best test ablated; of some cases.
    """

    by: ProveBy
    cases: int
    before: Share | None
    good_before: Share | None
    probability: float
    trials: tuple[CauseTest, ...]
    strength: float
    alpha: float
    controls: int
    examples: tuple[tuple[Any, str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "trials": [one.to_dict() for one in self.trials]}

    def table(self) -> str:
        """A line for each test."""
        return "\n".join(_answer_lines(self) if self.before is not None else _token_lines(self))


def prove_causes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    features: FeatureSet,
    fault: Fault,
    bad: Sequence[EncodedCase],
    good: Sequence[EncodedCase],
    *,
    settings: ProofSettings = DEFAULT_PROOF,
    dense: Mapping[int, Tensor] | None = None,
    progress: bool = True,
) -> Proof:
    """Take features away in bad cases, and add them in good ones, beside random directions.

    Args:
        model, tokenizer: the model and its tokenizer.
        features: the suspects. Each is tested by itself, with the others of its layer, and with all others.
        fault: how the fault is told in an answer.
        bad, good: cases with and without the fault, as `encode_cases` gives them.
        settings: how many, how strongly, how sampled, and what is compared.
        dense: layer → `(D,)` direction that needs no SAE, to compare with. Default: none.
        progress: whether a progress bar is shown.

    Raises:
        ValueError: a case has no prompt, or the model makes the fault again in none of the answers.
    """
    bad = [case for case in bad if case.fault and case.fault[0] > 0][: settings.cases]  # else nothing is read before it
    good = good[: settings.cases]
    if not bad:
        raise ValueError("Every fault is at the first token of its case, so that nothing before it can be changed.")
    groups = _groups(features, settings.members)
    compared = [_compared(group, settings.draws, dense) for group in groups]
    tokens = FirstTokens.of(model, tokenizer, fault, settings.sampling.temperature)
    found = None
    if settings.by == "answers":
        found = _AnsweredAgain.of(FaultAnswers(model, tokenizer, fault, settings, progress), bad, good)
        bad = found.bad
    tests = [None] * len(groups) if found is None else found.tests(compared, dense=dense is not None)
    trials, plain = [], 0.0
    for group, sets, answers in zip(groups, compared, tests, strict=True):
        before = tokens.before(bad, sets, settings.strength)
        raised = tokens.after_good(good, bad, sets, settings.strength)
        plain = float(before[0].mean())
        token = token_test(*before, raised, dense=dense is not None)
        trials.append(CauseTest(members_of(group), len(bad), answers, token))
    return Proof(
        *(settings.by, len(bad) if found is None else found.cases),
        *(None if found is None else found.before, None if found is None else found.good_before),
        probability=plain,
        trials=corrected(trials),
        strength=settings.strength,
        alpha=settings.alpha,
        controls=settings.draws,
        examples=() if found is None else tuple(found.examples[:3]),
    )


class _AnsweredAgain:
    """Cases that the model answered again without any change: those with the fault, and good ones without it."""

    def __init__(self, answers: FaultAnswers, bad: Sequence[EncodedCase], good: Sequence[EncodedCase]) -> None:
        plain = Edit("ablate", 0.0, None)
        ((before, texts),) = answers.of([plain], bad, "bad cases again")
        if not any(hit for _, hit in before.outcomes):
            raise ValueError(
                f"The model makes the fault again in none of {len(before.outcomes)} answers to {len(bad)} bad cases, "
                "so that nothing can be cured. Sample as the cases were sampled: temperature, samples, "
                "max_new_tokens, chat. Or prove by probability, which needs no new answers."
            )
        failing = {prompt for prompt, hit in before.outcomes if hit}
        self.answers, self.cases, self.before = answers, len(bad), before.share
        self.bad = [case for n, case in enumerate(bad) if n in failing]
        self.texts = [text for n, text in enumerate(texts) if n // answers.samples in failing]
        self.good_before, self.usable = None, list(good)
        if good:
            ((again, _),) = answers.of([plain], good, "good prompts")
            broken = {prompt for prompt, hit in again.outcomes if hit}
            self.good_before, self.usable = again.share, [one for n, one in enumerate(good) if n not in broken]
        self.examples: list[tuple[Any, str, str]] = []

    @classmethod
    def of(cls, answers: FaultAnswers, bad: Sequence[EncodedCase], good: Sequence[EncodedCase]) -> _AnsweredAgain:
        if not all(case.prompt_ids for case in (*bad, *good)):
            raise ValueError(
                "A case has no prompt, so that it cannot be answered again. Leave out such cases, or rank only."
            )
        return cls(answers, bad, good)

    def tests(self, compared: Sequence[Sequence[FeatureSet]], *, dense: bool) -> list[AnswerTest]:
        """A test for each group, with the features first in `compared`."""
        settings, flat = self.answers.settings, [one for sets in compared for one in sets]
        down = self.answers.of([Edit("ablate", settings.strength, one) for one in flat], self.bad, "ablated")
        amplified = [Edit("amplify", settings.alpha, one) for one in flat]
        up = self.answers.of(amplified, self.usable, "amplified") if self.usable else []
        size = len(compared[0])
        own = [slice(n * size, (n + 1) * size) for n in range(len(compared))]
        tests = [answer_test(_counts(down[one]), _counts(up[one]), dense=dense) for one in own]
        best = min(range(len(tests)), key=lambda n: tests[n].ablated.rate)
        cured, each = down[best * size][1], self.answers.samples
        self.examples = [(case.case.prompt, self.texts[n * each], cured[n * each]) for n, case in enumerate(self.bad)]
        return tests


def _counts(found: Sequence[tuple[Counted, list[str]]]) -> list[Counted]:
    return [counted for counted, _ in found]


def _compared(group: FeatureSet, draws: int, dense: Mapping[int, Tensor] | None) -> list[FeatureSet]:
    """The features, the random directions, and the difference of means."""
    random = [with_random_directions(group, seed) for seed in range(draws)]
    return [group, *random, *([] if dense is None else [along(group, dense, DENSE)])]


def _groups(features: FeatureSet, members: Sequence[Members]) -> list[FeatureSet]:
    """Each feature by itself, then those of each layer, then all; a group that was there already is left out."""
    layers = features.layers
    found: list[tuple[LayerFeatures, ...]] = []
    if "each" in members:
        found += [(layer.take([row]),) for layer in layers for row in range(len(layer.ids))]
    if "layer" in members:
        found += [(layer,) for layer in layers if len(layer.ids) > 1 or "each" not in members]
    if "all" in members and (len(layers) > 1 or not found):
        found.append(tuple(layers))
    return [replace(features, layers=group) for group in found]


def _answer_lines(proof: Proof) -> list[str]:
    assert proof.before is not None
    lines = [
        f"The model makes the fault again in {proof.before.hits} of {proof.before.total} answers to {proof.cases} "
        f"cases. Only the {proof.trials[0].cases} cases with such an answer are tested. Answers with the fault:",
        f"{'ablated':<28} {'features':>14} {'random':>14} {'draws':>11} {'means':>14} {'p':>7} {'corrected':>9}   "
        f"{'amplified':>9} {'random':>8} {'means':>8}   {'1st token':>9} {'random':>7}",
    ]
    for trial in proof.trials:
        one, token = trial.answers, trial.token
        assert one is not None
        between = f"{min(one.random_draws):.0%} to {max(one.random_draws):.0%}"
        lines.append(
            f"{members_in_words(trial.members):<28} {_rate(one.ablated):>14} {_rate(one.random_ablated):>14} "
            f"{between:>11} {_rate(one.dense_ablated):>14} {trial.p_value:7.2g} {trial.corrected_p:9.2g}   "
            f"{_hits(one.amplified):>9} {_hits(one.random_amplified):>8} {_hits(one.dense_amplified):>8}   "
            f"{token.left:9.1%} {_mean(token.random_left):7.1%}  {trial.verdict}".rstrip()
        )
    return lines


def _token_lines(proof: Proof) -> list[str]:
    lines = [
        f"The first faulty token of {proof.cases} cases has a mean probability of {proof.probability:.2%}. Below: "
        "what is left of it if directions are subtracted at the token before, and the factor by which it changes in "
        "good answers if they are added:",
        f"{'subtracted':<28} {'features':>9} {f'{proof.controls} random':>18} {'means':>7} {'lower in':>9} {'p':>7} "
        f"{'corrected':>9}   {'added':>7} {'random':>7} {'means':>7}",
    ]
    for trial in proof.trials:
        one = trial.token
        between = f"{min(one.random_left):.0%} to {max(one.random_left):.0%}"
        times = [one.raised, None if one.random_raised is None else _mean(one.random_raised), one.dense_raised]
        added = " ".join("–".rjust(7) if value is None else f"×{value:.2f}".rjust(7) for value in times)
        dense = "–" if one.dense_left is None else f"{one.dense_left:.1%}"
        lines.append(
            f"{members_in_words(trial.members):<28} {one.left:9.1%} {between:>18} {dense:>7} {one.lower:9.0%} "
            f"{trial.p_value:7.2g} {trial.corrected_p:9.2g}   {added}  {trial.verdict}".rstrip()
        )
    return lines


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _rate(share: Share | None) -> str:
    return "–" if share is None else f"{share.hits}/{share.total} ({share.rate:.0%})"


def _hits(share: Share | None) -> str:
    return "–" if share is None else f"{share.hits}/{share.total}"
