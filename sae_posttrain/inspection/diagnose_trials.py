"""The result of one test of a proof, and whether it shows a cause."""

# C cases, E sets of directions

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from ..feature_set import FeatureSet
from ..metrics import Share, compare_rates
from ..metrics.comparison import Difference
from .diagnose_answers import Counted
from .diagnose_chance import chance_among_draws, chance_over_cases, holm
from .diagnose_tokens import log_change, share_left

FEW = 10  # cases
LEVEL = 0.05


@dataclass(frozen=True)
class AnswerTest:
    """Answers with the fault, of the cases that were answered again.

    Args:
        ablated, random_ablated: answers to the bad prompts that still have the fault; `random` is all draws together.
        random_draws: share of the answers that still have it, for each draw.
        over_draws: p-value of the features' share against how much random directions differ among each other. It does
            not decide, because few draws tell it badly; the p-value of `ablating` is over prompts, for these draws.
        dense_ablated: the same with the difference of means; None if it is not known.
        ablating: the features' rate minus that of the random directions.
        amplified, random_amplified, dense_amplified, amplifying: the same for good prompts, whose answers got the
            fault; None without good prompts.
    """

    ablated: Share
    random_ablated: Share
    random_draws: tuple[float, ...]
    over_draws: float
    dense_ablated: Share | None
    ablating: Difference
    amplified: Share | None = None
    random_amplified: Share | None = None
    dense_amplified: Share | None = None
    amplifying: Difference | None = None

    @property
    def is_rarer(self) -> bool:
        """Whether the fault is rarer than under every draw of random directions."""
        return self.ablated.rate < min(self.random_draws)


@dataclass(frozen=True)
class TokenTest:
    """What is left of the probability of the first faulty token, when directions are subtracted at the token before it.

    Args:
        left: the mean probability over the cases, as a share of that without a change.
        random_left: the same for each draw of random directions.
        dense_left: the same for the difference of means; None if it is not known.
        lower: share of the cases in which the probability falls more than under random directions on average.
        over_cases, over_draws: p-value of the mean change of the logarithm, against the mean of the random directions
            (over the cases), and against how much random directions differ among each other.
        raised, random_raised, dense_raised: probability of such tokens in good answers when the directions are added,
            as a multiple of that without; None if it is not known which tokens would be faulty there.
    """

    left: float
    random_left: tuple[float, ...]
    dense_left: float | None
    lower: float
    over_cases: float
    over_draws: float
    raised: float | None = None
    random_raised: tuple[float, ...] | None = None
    dense_raised: float | None = None

    @property
    def p_value(self) -> float:
        """Of the statement that neither these cases nor these draws explain the difference: the larger of the two."""
        return max(self.over_cases, self.over_draws)


@dataclass(frozen=True)
class CauseTest:
    """What some features did, beside random directions of the same lengths that fire as they do.

    Args:
        members: layer and feature of each.
        cases: the number of cases.
        answers: of the cases that were answered again; None if the proof is by probability.
        token: of the first faulty token.
        corrected_p: p-value of the answers, or else of the token, corrected for the number of tests (Holm).
    """

    members: tuple[tuple[int, int], ...]
    cases: int
    answers: AnswerTest | None
    token: TokenTest
    corrected_p: float = 1.0

    @property
    def p_value(self) -> float:
        """Before the correction."""
        return self.token.p_value if self.answers is None else self.answers.ablating.p_value

    @property
    def is_rarer(self) -> bool:
        """Whether the fault is rarer, or less probable, than under every draw of random directions."""
        if self.answers is not None:
            return self.answers.is_rarer
        return self.token.left < min(self.token.random_left)

    @property
    def is_cause(self) -> bool:
        """Whether the test shows that the features cause the fault. With fewer than `FEW` cases, no test can."""
        return self.is_rarer and self.cases >= FEW and self.corrected_p <= LEVEL

    @property
    def is_hint(self) -> bool:
        """Whether there are too few cases to prove anything, and the fault is rarer."""
        return self.is_rarer and self.cases < FEW

    @property
    def verdict(self) -> str:
        """`cause`, `hint` or nothing."""
        return "cause" if self.is_cause else "hint" if self.is_hint else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "p_value": self.p_value, "is_cause": self.is_cause, "is_hint": self.is_hint}


def corrected(trials: Sequence[CauseTest]) -> tuple[CauseTest, ...]:
    """The tests with their p-values corrected for how many there are."""
    p_values = holm([one.p_value for one in trials])
    return tuple(replace(one, corrected_p=p) for one, p in zip(trials, p_values, strict=True))


def answer_test(down: Sequence[Counted], up: Sequence[Counted], *, dense: bool) -> AnswerTest:
    """From the counts of the features, which come first, of random directions, and of the difference of means, last.

    Args:
        down: answers to bad prompts.
        up: answers to good prompts; empty without any.
        dense: whether the last count is that of the difference of means.
    """
    own, control, rival = _split(down, dense)
    draws = tuple(one.share.rate for one in control)
    test = AnswerTest(
        own.share,
        _pooled(control).share,
        draws,
        chance_among_draws(own.share.rate, draws),
        None if rival is None else rival.share,
        compare_rates(own, _pooled(control)),
    )
    if not up:
        return test
    own, control, rival = _split(up, dense)
    return replace(
        test,
        amplified=own.share,
        random_amplified=_pooled(control).share,
        dense_amplified=None if rival is None else rival.share,
        amplifying=compare_rates(own, _pooled(control)),
    )


def token_test(plain_C: Tensor, changed_CE: Tensor, raised: tuple[Tensor, Tensor] | None, *, dense: bool) -> TokenTest:
    """From probabilities; the columns are in the order of `answer_test`."""
    end = changed_CE.shape[1] - dense
    shares, log_CE = share_left(plain_C, changed_CE), log_change(plain_C, changed_CE)
    difference_C = log_CE[:, 0] - log_CE[:, 1:end].mean(1)
    found = TokenTest(
        shares[0],
        tuple(shares[1:end]),
        shares[-1] if dense else None,
        float((difference_C < 0).double().mean()),
        chance_over_cases(difference_C.tolist()),
        chance_among_draws(float(log_CE[:, 0].mean()), log_CE[:, 1:end].mean(0).tolist()),
    )
    if raised is None:
        return found
    shares = share_left(*raised)
    return replace(
        found, raised=shares[0], random_raised=tuple(shares[1:end]), dense_raised=shares[-1] if dense else None
    )


def _split(counted: Sequence[Counted], dense: bool) -> tuple[Counted, Sequence[Counted], Counted | None]:
    end = len(counted) - dense
    return counted[0], counted[1:end], counted[-1] if dense else None


def _pooled(counted: Sequence[Counted]) -> Counted:
    return Counted(tuple(outcome for one in counted for outcome in one.outcomes))


def members_of(features: FeatureSet) -> tuple[tuple[int, int], ...]:
    """Layer and feature of each."""
    return tuple((layer.layer, feature) for layer in features.layers for feature in layer.ids)


def members_in_words(members: Sequence[tuple[int, int]]) -> str:
    """What a test is called."""
    layers = list(dict.fromkeys(layer for layer, _ in members))
    if len(members) == 1:
        return f"layer {layers[0]} feature {members[0][1]}"
    if len(layers) == 1:
        return f"the {len(members)} features of layer {layers[0]}"
    return f"all {len(members)} features"
