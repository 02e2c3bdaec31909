"""The suspects of a diagnosis: features that are more active on the faulty tokens, with the text around their peak."""

# S sequence

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..discovery.statistics import Statistics
from ..discovery.tokens import cut
from ..feature_set import FeatureSet
from .contexts import pieces_around
from .diagnose_cases import GOOD, EncodedCase
from .pre_activations import read_pre_activations

SHOWN_AROUND = 12  # tokens on each side of a feature's peak


@dataclass(frozen=True)
class Suspect:
    """A feature that is more active on the faulty tokens than on the good ones.

    Args:
        layer, feature: of the SAE.
        score: mean activation on the faulty tokens minus that on the good ones; each case weighs the same.
        size: what the score writes, as a share of the length of the mean residual on the good tokens. Comparable
            between layers.
        fault, good: the two mean activations.
        pieces: text of a bad case around the feature's highest pre-activation, each piece with its own.
    """

    layer: int
    feature: int
    score: float
    size: float
    fault: float
    good: float
    pieces: tuple[tuple[str, float], ...]


Excerpts = Mapping[tuple[int, int], tuple[tuple[str, float], ...]]


def suspects_of(ranked: FeatureSet, statistics: Statistics, name: str, pieces: Excerpts) -> tuple[Suspect, ...]:
    """The features of a set as suspects, the largest first."""
    found = []
    for layer in ranked.layers:
        length = max(float(statistics[layer.layer][GOOD].mean_residual.norm()), 1e-12)
        for row, feature in enumerate(layer.ids):
            score = float(layer.score[row])
            fault, good = (float(layer.activations[group][row]) for group in (name, GOOD))
            size = score * float(layer.direction[row].norm()) / length
            found.append(Suspect(layer.layer, feature, score, size, fault, good, pieces[layer.layer, feature]))
    return tuple(sorted(found, key=lambda one: -one.size))


def pieces_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ranked: FeatureSet,
    cases: Sequence[EncodedCase],
    batch_size: int,
) -> dict[tuple[int, int], tuple[tuple[str, float], ...]]:
    """For each feature, the bad case with its highest pre-activation on a faulty token, around that token."""
    best: dict[tuple[int, int], tuple[float, tuple[tuple[str, float], ...]]] = {}
    read = read_pre_activations(model, ranked, [one.ids for one in cases], batch_size=batch_size)
    for n, pre in read:
        case = cases[n]
        assert case.fault is not None
        response = cut(tokenizer, case.case.response, len(case.ids) - case.start)
        for layer in ranked.layers:
            for row, feature in enumerate(layer.ids):
                pre_S = pre[layer.layer][case.start :, row]
                first, last = (place - case.start for place in case.fault)
                peak, place = pre_S[first:last].max(0)
                if (layer.layer, feature) not in best or float(peak) > best[layer.layer, feature][0]:
                    shown = pieces_around(case.case.response, response, pre_S, first + int(place), SHOWN_AROUND)
                    best[layer.layer, feature] = float(peak), shown
    return {key: shown for key, (_, shown) in best.items()}


def excerpt(suspect: Suspect) -> str:
    """The text around the peak, the strongest piece in brackets."""
    highest_value = max((value for _, value in suspect.pieces), default=0.0)
    text = "".join(f"[{piece}]" if value == highest_value else piece for piece, value in suspect.pieces)
    return " ".join(text.split())
