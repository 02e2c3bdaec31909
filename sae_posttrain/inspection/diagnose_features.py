"""Diagnose bad cases: rank features on the faulty stretch, then prove which of them cause the fault."""

# K dictionary size, F selected features of one layer, D model width

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..artefacts import DIAGNOSIS
from ..discovery.contrast import activation_contrast
from ..discovery.selection import check_choice, highest, layer_features
from ..discovery.sources import load_saes, provenance
from ..discovery.statistics import Statistics, check_reading, sum_passages
from ..discovery.thresholds import TokenSample
from ..feature_set import FeatureSet
from ..sae import SparseAutoencoder
from .contexts import pieces_around
from .diagnose_answers import ProofSettings
from .diagnose_cases import GOOD, Case, EncodedCase, Fault, Where, encode_cases
from .diagnose_proof import DEFAULT_PROOF, Proof, prove_causes
from .pre_activations import cut, read_pre_activations

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


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What `diagnose` found.

    Args:
        fault: name of the fault.
        suspects: the largest first.
        cases: the bad cases that were read.
        good: number of good cases that they were compared with; 0 if the beginning of each bad response was used.
        ranked: all suspects as a feature set, best first within each layer.
        proof: what became of the fault when features were ablated or amplified; None if it was not tested.
        features: those suspects that cured more cases than random directions did, None if there are none.
        model, sae: names.
    """

    fault: str
    suspects: tuple[Suspect, ...]
    cases: tuple[Case, ...]
    good: int
    ranked: FeatureSet
    proof: Proof | None
    features: FeatureSet | None
    model: str
    sae: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the report shows them."""
        return {
            DIAGNOSIS: {
                "fault": self.fault,
                "model": self.model,
                "sae": self.sae,
                "cases": [asdict(case) for case in self.cases],
                "good": self.good,
                "suspects": [asdict(one) for one in self.suspects],
                "proof": None if self.proof is None else self.proof.to_dict(),
                "kept": [] if self.features is None else [list(one) for one in _members(self.features)],
            }
        }

    def table(self) -> str:
        """The suspects, and what the proof says of each."""
        header = f"{'layer':>5} {'feature':>8} {'size':>7} {'fault':>8} {'good':>8}  around its peak"
        lines = [
            f"{one.layer:5} {one.feature:8} {one.size:7.1%} {one.fault:8.3f} {one.good:8.3f}  {_excerpt(one)}"
            for one in self.suspects
        ]
        return "\n".join([header, *lines, *([] if self.proof is None else ["", self.proof.table()])])


def diagnose(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sae: str | Path | Mapping[int, SparseAutoencoder],
    bad: Sequence[Case],
    good: Sequence[Case] = (),
    *,
    fault: Fault,
    layers: Sequence[int],
    top: int = 3,
    where: Where = "stretch",
    proof: ProofSettings | None = DEFAULT_PROOF,
    chat: bool = False,
    batch_size: int = 8,
    max_length: int = 1024,
    progress: bool = True,
) -> Diagnosis:
    """Find the features behind a fault, and test whether they cause it.

    1. Rank: mean activation on the faulty tokens, and on the one before them, minus that on good ones.
    2. Prove: sample the answer anew with each suspect ablated, and count in how many cases the fault is gone, beside
       random directions of equal norm; amplify it on good prompts, and count how many answers get the fault.

    Args:
        model, tokenizer: the model and its fast tokenizer.
        sae: a folder or hub id for `load_sae`, or the SAEs by layer.
        bad: cases with a fault, such as `split_cases` finds them. One is enough to rank; to prove takes ten or more.
        good: cases without it. Without any, the part of each bad response before its fault is taken, and nothing is
            amplified.
        fault: how the fault is told in an answer.
        layers: 0-based decoder blocks.
        top: suspects per layer.
        where: `stretch` ranks on all faulty tokens; `before` on the token before the fault alone.
        proof: settings of the proof; None only ranks.
        chat: whether the chat template is applied to text prompts too.
        batch_size, max_length: cases per forward pass, and tokens of prompt and response that are read.
        progress: whether progress bars are shown.

    Returns:
        The suspects, the proof, and the features that passed it.

    Raises:
        ValueError: no bad case, nothing to compare it with, no feature that is more active in the fault, a setting out
            of range, or the model does not make the fault again.

    Example:
        >>> from sae_posttrain.inspection import TextFault
        >>> bad = [Case("the cat", "sees a house sings a house sings", fault=(11, 32))]
        >>> found = diagnose(model, tokenizer, "saes", bad, fault=TextFault("sings"), layers=[16], top=1, proof=None)
        >>> len(found.suspects)
        1

    Source: arXiv:2605.11887, sections 3.3, 7.2 and 8.1.
    """
    check_choice(layers, top, "contrast", ("contrast",))
    check_reading(batch_size, max_length)
    saes = load_saes(sae, layers, model)
    encoded_bad = encode_cases(tokenizer, bad, chat=chat, max_length=max_length)
    encoded_good = encode_cases(tokenizer, [replace(one, fault=None) for one in good], chat=chat, max_length=max_length)
    if not encoded_bad:
        raise ValueError(
            f"None of {len(bad)} cases has a fault within the first {max_length} tokens. Raise max_length, or say with "
            "`fault` what is wrong in them."
        )
    sample = TokenSample.fitting(saes, 2)
    statistics = _statistics(
        *(model, saes, encoded_bad, encoded_good, fault.name),
        where=where,
        batch_size=batch_size,
        progress=progress,
        sample=sample,
    )
    ranked = _ranked(model, saes, statistics, fault.name, [*bad, *good], top=top, sample=sample, progress=progress)
    suspects = _suspects(ranked, statistics, fault.name, _pieces(model, tokenizer, ranked, encoded_bad, batch_size))
    proved = features = None
    if proof is not None:
        proved = prove_causes(
            *(model, tokenizer, ranked, fault, encoded_bad, encoded_good), settings=proof, progress=progress
        )
        features = _kept(ranked, proved)
    return Diagnosis(
        *(fault.name, suspects, tuple(one.case for one in encoded_bad), len(encoded_good), ranked, proved, features),
        model=ranked.provenance.base_model,
        sae=ranked.provenance.sae,
    )


def _statistics(
    model: PreTrainedModel,
    saes: Mapping[int, SparseAutoencoder],
    bad: Sequence[EncodedCase],
    good: Sequence[EncodedCase],
    name: str,
    *,
    where: Where,
    batch_size: int,
    progress: bool,
    sample: TokenSample,
) -> Statistics:
    passages = [one.passage(name, where, compare=not good) for one in (*bad, *good)]
    groups = {span.group for passage in passages for span in passage.spans}
    if GOOD not in groups:
        raise ValueError(
            "Every fault begins with its response, so that there is nothing to compare it with. Give good cases."
        )
    passages.sort(key=lambda passage: len(passage.ids))
    batches = [passages[start : start + batch_size] for start in range(0, len(passages), batch_size)]
    total = len(batches)
    return sum_passages(model, saes, [name, GOOD], lambda: batches, total=total, progress=progress, sample=sample)


def _ranked(
    model: PreTrainedModel,
    saes: Mapping[int, SparseAutoencoder],
    statistics: Statistics,
    name: str,
    cases: Sequence[Case],
    *,
    top: int,
    sample: TokenSample,
    progress: bool,
) -> FeatureSet:
    found = []
    for layer, sae in saes.items():
        chosen = highest(activation_contrast(statistics[layer], name, GOOD), name, top, own=name)
        if chosen:
            found.append(layer_features(sae, statistics[layer], chosen, baselines=True, sample=sample))
    if not found:
        raise ValueError(
            f"No feature of layers {list(saes)} is more active on the faulty tokens than on the good ones. Try other "
            "layers, or check that SAE and model belong together."
        )
    texts = {name: [f"{case.prompt}\n{case.response}" for case in cases]}
    return FeatureSet(tuple(found), provenance(model, saes, texts, "diagnosis", progress=progress))


def _suspects(
    ranked: FeatureSet,
    statistics: Statistics,
    name: str,
    pieces: Mapping[tuple[int, int], tuple[tuple[str, float], ...]],
) -> tuple[Suspect, ...]:
    found = []
    for layer in ranked.layers:
        length = max(float(statistics[layer.layer][GOOD].mean_residual.norm()), 1e-12)
        for row, feature in enumerate(layer.ids):
            score = float(layer.score[row])
            fault, good = (float(layer.activations[group][row]) for group in (name, GOOD))
            size = score * float(layer.direction[row].norm()) / length
            found.append(Suspect(layer.layer, feature, score, size, fault, good, pieces[layer.layer, feature]))
    return tuple(sorted(found, key=lambda one: -one.size))


def _pieces(
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


def _kept(ranked: FeatureSet, proof: Proof) -> FeatureSet | None:
    """The features that cured more cases by themselves than random directions did."""
    causes = {trial.members[0] for trial in proof.trials if len(trial.members) == 1 and trial.is_cause}
    layers = []
    for layer in ranked.layers:
        rows = [row for row, feature in enumerate(layer.ids) if (layer.layer, feature) in causes]
        if rows:
            layers.append(layer.take(rows))
    return replace(ranked, layers=tuple(layers)) if layers else None


def _members(features: FeatureSet) -> list[tuple[int, int]]:
    return [(layer.layer, feature) for layer in features.layers for feature in layer.ids]


def _excerpt(suspect: Suspect) -> str:
    """The text around the peak, the strongest piece in brackets."""
    highest_value = max((value for _, value in suspect.pieces), default=0.0)
    text = "".join(f"[{piece}]" if value == highest_value else piece for piece, value in suspect.pieces)
    return " ".join(text.split())
