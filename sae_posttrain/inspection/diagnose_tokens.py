"""The probability of the first faulty token, under changes of the residual at the token before it."""

# C cases, E edits, V vocabulary, D model width

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..feature_set import FeatureSet
from ..residual import text_config
from ..steering import typical_contributions
from ..vocabulary import TokenScripts, token_scripts
from .diagnose_cases import EncodedCase, Fault, SwitchFault
from .sweep import sweep_at_switches
from .trace import SwitchPassage

TINY = 1e-12
EDITS_AT_ONCE = 64  # the cache of the tokens before is repeated for each


@dataclass(frozen=True)
class FirstTokens:
    """Reads the probability of the first faulty token of cases.

    In a switch of language, every token of the script that is switched to counts, since which word was drawn first is
    chance. In any other fault, only the token of the case counts.

    Args:
        model: the model.
        fault: the fault.
        table: the letters of each token; None if the fault is no switch of language.
        temperature: the logits are divided by it.
    """

    model: PreTrainedModel
    fault: Fault
    table: TokenScripts | None
    temperature: float = 1.0

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: Any, fault: Fault, temperature: float) -> FirstTokens:
        """With the table that the fault needs. Temperature 0 is read at 1: a greedy choice has no probability."""
        table = token_scripts(tokenizer) if isinstance(fault, SwitchFault) else None
        return cls(model, fault, table, temperature or 1.0)

    def before(
        self, cases: Sequence[EncodedCase], sets: Sequence[FeatureSet], strength: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Subtract what each set typically writes at the token before the fault.

        Args:
            cases: with a fault.
            sets: features or directions.
            strength: multiplies what is subtracted.

        Returns:
            `(C,)` the probability without a change, and `(C, E)` that of each set.

        Source: arXiv:2605.11887, section 7.2, Eq. 25.
        """
        return self._read([_passage(case) for case in cases], list(map(self._tokens, cases)), sets, -strength)

    def after_good(
        self, good: Sequence[EncodedCase], bad: Sequence[EncodedCase], sets: Sequence[FeatureSet], strength: float
    ) -> tuple[Tensor, Tensor] | None:
        """Add what each set typically writes in good answers, as far into the answer as the faults are in bad ones.

        Returns:
            As `before`. None unless the fault is a switch of language: only then it is known which tokens would be one.
        """
        if self.table is None or not good:
            return None
        pairs = [(case, bad[n % len(bad)]) for n, case in enumerate(good)]
        passages = [_passage(case, like) for case, like in pairs]
        return self._read(passages, [self._tokens(like) for _, like in pairs], sets, strength)

    def _tokens(self, case: EncodedCase) -> Tensor:
        """`(V,)` the tokens that would begin the fault of a case."""
        assert case.fault is not None
        size = text_config(self.model).vocab_size
        if self.table is not None and isinstance(self.fault, SwitchFault) and case.case.language:
            (first, *_) = self.fault.criteria.find(case.case.response, case.case.language)
            if first.language is None:  # else the two languages share the script
                return self.table.mask({first.script}, size=size)
        tokens_V = torch.zeros(size, dtype=torch.bool)
        tokens_V[case.ids[case.fault[0]]] = True
        return tokens_V

    def _read(
        self, passages: Sequence[SwitchPassage], tokens: Sequence[Tensor], sets: Sequence[FeatureSet], sign: float
    ) -> tuple[Tensor, Tensor]:
        edits: list[Mapping[int, Tensor]] = [{}]
        edits += [{layer: sign * one_D for layer, one_D in typical_contributions(one).items()} for one in sets]
        found = []
        for passage, tokens_V in zip(passages, tokens, strict=True):
            parts = [edits[start : start + EDITS_AT_ONCE] for start in range(0, len(edits), EDITS_AT_ONCE)]
            read = [
                sweep_at_switches(self.model, [passage], tokens_V, part, temperature=self.temperature)[0]
                for part in parts
            ]
            found.append(torch.cat(read))
        found_CE = torch.stack(found).double()
        return found_CE[:, 0], found_CE[:, 1:]


def _passage(case: EncodedCase, like: EncodedCase | None = None) -> SwitchPassage:
    """The case up to its first faulty token, or up to the place where another case has it."""
    of = case if like is None else like
    assert of.fault is not None
    place = min(case.start + of.fault[0] - of.start, len(case.ids) - 1)
    return SwitchPassage(case.ids[: place + 1], case.start, place)


def share_left(plain_C: Tensor, changed_CE: Tensor) -> list[float]:
    """For each edit the mean probability, as a share of the mean probability without one."""
    shares: list[float] = (changed_CE.sum(0) / plain_C.sum().clamp(min=TINY)).tolist()
    return shares


def log_change(plain_C: Tensor, changed_CE: Tensor) -> Tensor:
    """`(C, E)` logarithm of what is left of each probability."""
    return changed_CE.clamp(min=TINY).log() - plain_C.clamp(min=TINY).log()[:, None]


def along(features: FeatureSet, directions: Mapping[int, Tensor], name: str) -> FeatureSet:
    """The same features with one direction in each layer, so scaled that each layer typically writes the same length.

    Args:
        features: any feature set.
        directions: layer → `(D,)` direction of any length but 0.
        name: of the directions, for the provenance.
    """
    typical = typical_contributions(features)
    layers = []
    for layer in features.layers:
        unit_D = directions[layer.layer].float().cpu() / directions[layer.layer].float().norm().cpu()
        lengths_F1 = layer.direction.norm(dim=-1, keepdim=True)
        together = float((layer.typical @ lengths_F1).clamp(min=TINY))
        scale = float(typical[layer.layer].norm()) / together
        layers.append(replace(layer, direction=scale * lengths_F1 * unit_D))
    return replace(features, layers=tuple(layers), provenance=replace(features.provenance, selection=name))
