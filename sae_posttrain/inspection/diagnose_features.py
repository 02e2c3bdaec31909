"""Diagnose bad cases: rank features on the faulty stretch, then prove which of them cause the fault."""

# K dictionary size, F selected features of one layer, D model width

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..artefacts import DIAGNOSIS
from ..discovery.contrast import activation_contrast
from ..discovery.selection import Choice, check_choice, highest, layer_features
from ..discovery.sources import load_saes, provenance
from ..discovery.statistics import Statistics, check_reading, sum_passages
from ..discovery.thresholds import TokenSample
from ..feature_set import FeatureSet
from ..sae import SparseAutoencoder
from .diagnose_answers import ProofSettings
from .diagnose_cases import GOOD, Case, EncodedCase, Fault, Where, encode_cases
from .diagnose_proof import DEFAULT_PROOF, Proof, prove_causes
from .diagnose_suspects import Suspect, excerpt, pieces_of, suspects_of
from .diagnose_trials import members_of


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
        features: those suspects that the proof shows to be a cause; with too few cases for a proof, those for which the
            fault is rarer than under random directions. None if there are none.
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
                "kept": [] if self.features is None else [list(one) for one in members_of(self.features)],
            }
        }

    def table(self) -> str:
        """The suspects, and what the proof says of each."""
        header = f"{'layer':>5} {'feature':>8} {'size':>7} {'fault':>8} {'good':>8}  around its peak"
        lines = [
            f"{one.layer:5} {one.feature:8} {one.size:7.1%} {one.fault:8.3f} {one.good:8.3f}  {excerpt(one)}"
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
    suspects: FeatureSet | str | Path | None = None,
    chat: bool = False,
    batch_size: int = 8,
    max_length: int = 1024,
    progress: bool = True,
) -> Diagnosis:
    """Find the features behind a fault, and test whether they cause it.

    1. Rank: mean activation on the faulty tokens, and on the one before them, minus that on good ones.
    2. Prove: sample the answer anew with each suspect ablated, and count in how many cases the fault is gone, beside
       random directions of equal norm; amplify it on good prompts, and count how many answers get the fault. Or read
       how probable the fault is, without sampling (`ProofSettings(by="probability")`).

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
        suspects: a feature set of the same SAE, whose features are tested instead of the highest ones, such as those of
            `discover repetition`, or those of another language as a control. `layers` and `top` do not count then.
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
    given = None if suspects is None else FeatureSet.of(suspects)
    layers = layers if given is None else [layer.layer for layer in given.layers]
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
    chosen = _highest(statistics, fault.name, top) if given is None else _chosen(given, statistics, fault.name)
    ranked = _ranked(model, saes, statistics, chosen, [*bad, *good], sample=sample, progress=progress)
    shown = suspects_of(ranked, statistics, fault.name, pieces_of(model, tokenizer, ranked, encoded_bad, batch_size))
    proved = features = None
    if proof is not None:
        proved = prove_causes(
            *(model, tokenizer, ranked, fault, encoded_bad, encoded_good),
            settings=proof,
            dense=_difference_of_means(statistics, fault.name),
            progress=progress,
        )
        features = _kept(ranked, proved)
    return Diagnosis(
        *(fault.name, shown, tuple(one.case for one in encoded_bad), len(encoded_good), ranked, proved, features),
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


def _highest(statistics: Statistics, name: str, top: int) -> dict[int, list[Choice]]:
    """For each layer the features that are most more active on the faulty tokens."""
    found = {
        layer: highest(activation_contrast(groups, name, GOOD), name, top, own=name)
        for layer, groups in statistics.items()
    }
    if not any(found.values()):
        raise ValueError(
            f"No feature of layers {list(statistics)} is more active on the faulty tokens than on the good ones. Try "
            "other layers, or check that SAE and model belong together."
        )
    return found


def _chosen(given: FeatureSet, statistics: Statistics, name: str) -> dict[int, list[Choice]]:
    """The features of a set that fire on these tokens, with their scores."""
    found: dict[int, list[Choice]] = {}
    for layer in given.layers:
        groups = statistics[layer.layer]
        score_K = activation_contrast(groups, name, GOOD)
        fires_K = groups[name].firing + groups[GOOD].firing > 0
        if layer.ids and max(layer.ids) >= len(score_K):
            raise ValueError(f"The suspects have feature {max(layer.ids)}, but the SAE has {len(score_K)} features.")
        found[layer.layer] = [Choice(one, name, float(score_K[one]), own=name) for one in layer.ids if fires_K[one]]
    if not any(found.values()):
        raise ValueError("None of the given suspects fires on any token of these cases, so that none can be tested.")
    return found


def _ranked(
    model: PreTrainedModel,
    saes: Mapping[int, SparseAutoencoder],
    statistics: Statistics,
    chosen: Mapping[int, Sequence[Choice]],
    cases: Sequence[Case],
    *,
    sample: TokenSample,
    progress: bool,
) -> FeatureSet:
    found = [
        layer_features(sae, statistics[layer], chosen[layer], baselines=True, sample=sample)
        for layer, sae in saes.items()
        if chosen[layer]
    ]
    name = found[0].targets[0]
    texts = {name: [f"{case.prompt}\n{case.response}" for case in cases]}
    return FeatureSet(tuple(found), provenance(model, saes, texts, "diagnosis", progress=progress))


def _difference_of_means(statistics: Statistics, name: str) -> dict[int, Tensor]:
    """Layer → `(D,)` mean residual of the faulty tokens minus that of the good ones: what needs no SAE."""
    return {
        layer: (groups[name].mean_residual - groups[GOOD].mean_residual).float().cpu()
        for layer, groups in statistics.items()
    }


def _kept(ranked: FeatureSet, proof: Proof) -> FeatureSet | None:
    """The features that passed the proof by themselves; those of a group that was tested only as a whole, if it did."""
    alone = {trial.members[0] for trial in proof.trials if len(trial.members) == 1}
    passed = [trial for trial in proof.trials if trial.verdict]
    causes = {one for trial in passed for one in trial.members if len(trial.members) == 1 or one not in alone}
    layers = []
    for layer in ranked.layers:
        rows = [row for row, feature in enumerate(layer.ids) if (layer.layer, feature) in causes]
        if rows:
            layers.append(layer.take(rows))
    return replace(ranked, layers=tuple(layers)) if layers else None
