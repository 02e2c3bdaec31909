"""Answer cases again while features are ablated or amplified, and count which answers have the fault."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..feature_set import FeatureSet
from ..metrics import Share
from ..metrics.interval import ClusteredOutcome
from ..sampling import Response, SamplingProgress, SamplingSettings, sampler
from ..steering.generate import steer
from ..steering.removal import ablate
from .diagnose_cases import EncodedCase, Fault

LEAST_DRAWS = 5  # to know how much random directions differ
GREEDY = SamplingSettings(0.0, top_p=1.0, max_new_tokens=256)
Way = Literal["ablate", "amplify"]
ProveBy = Literal["answers", "probability"]
"""`answers`: answer again, and count. `probability`: read how probable the first faulty token is, without sampling."""
Members = Literal["each", "layer", "all"]
"""What is tested together: each suspect by itself, the suspects of each layer, or all of them."""


@dataclass(frozen=True)
class ProofSettings:
    """How the proof is done.

    Args:
        sampling: how answers are sampled. Greedy by default: then each case has one answer, always the same. By
            `probability`, only its temperature counts, and temperature 0 is read at 1.
        by: what is compared. A fault that is a rare draw, such as a switch of language, hardly comes again in a few
            answers; its probability can be read.
        members: what is tested together.
        samples: answers to each prompt; one if greedy.
        strength: share of what the features write that is taken away; 1 is all of it.
        alpha: strength of amplifying, in typical strengths.
        controls: number of random draws of directions of equal norm, for each trial. Default: 3 by `answers`, 20 by
            `probability`, where a draw costs little.
        cases: most bad cases and most good prompts that are answered again.
        batch_size: answers sampled at once.
    """

    sampling: SamplingSettings = GREEDY
    by: ProveBy = "answers"
    members: tuple[Members, ...] = ("each", "layer", "all")
    samples: int = 1
    strength: float = 1.0
    alpha: float = 4.0
    controls: int | None = None
    cases: int = 32
    batch_size: int = 64

    def __post_init__(self) -> None:
        if min(self.samples, self.draws, self.cases, self.batch_size) < 1:
            raise ValueError(
                f"samples={self.samples}, controls={self.draws}, cases={self.cases}, batch_size={self.batch_size}: "
                "expected at least 1."
            )
        if self.by not in ("answers", "probability"):
            raise ValueError(f"by={self.by!r}: expected 'answers' or 'probability'.")
        if not self.members or set(self.members) - {"each", "layer", "all"}:
            raise ValueError(f"members={self.members}: expected some of 'each', 'layer' and 'all'.")
        if self.by == "probability" and self.draws < LEAST_DRAWS:
            raise ValueError(f"controls={self.draws}: by probability, expected at least {LEAST_DRAWS}.")

    @property
    def draws(self) -> int:
        """Number of random draws."""
        if self.controls is not None:
            return self.controls
        return 3 if self.by == "answers" else 20


@dataclass(frozen=True)
class Counted:
    """Answers with the fault; what `compare_rates` takes."""

    outcomes: tuple[ClusteredOutcome, ...] = field(repr=False)
    confidence: float = 0.95

    @property
    def share(self) -> Share:
        prompts, hits = zip(*self.outcomes, strict=True)
        return Share.of(hits, prompts, confidence=self.confidence)


@dataclass(frozen=True)
class Edit:
    """A change of the model while it answers some rows of a batch; without features, none."""

    way: Way
    strength: float
    features: FeatureSet | None

    def around(self, model: PreTrainedModel, rows: Sequence[bool]) -> AbstractContextManager[None]:
        assert self.features is not None
        each = [self.strength * row for row in rows]
        if self.way == "ablate":
            return ablate(model, self.features, strength=each)
        return steer(model, self.features, alpha=each)


@dataclass(frozen=True)
class FaultAnswers:
    """Answers to cases under several changes of the model, and which of them have the fault."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fault: Fault
    settings: ProofSettings
    progress: bool

    @property
    def samples(self) -> int:
        return 1 if self.settings.sampling.greedy else self.settings.samples

    def of(self, edits: Sequence[Edit], cases: Sequence[EncodedCase], title: str) -> list[tuple[Counted, list[str]]]:
        """For each edit what became of the fault, and the answers; a batch may hold rows of several edits."""
        rows = [(n, case) for n in range(len(edits)) for case in cases for _ in range(self.samples)]
        sampling, size = self.settings.sampling, self.settings.batch_size
        found: list[Response] = []
        bar = SamplingProgress(len(rows), sampling.max_new_tokens, title, disable=not self.progress)
        with torch.no_grad(), bar, sampler(self.model, self.tokenizer, sampling, progress=bar) as sample:
            for start in range(0, len(rows), size):
                batch = rows[start : start + size]
                with ExitStack() as stack:
                    for n in dict.fromkeys(n for n, _ in batch):
                        if edits[n].features is not None:
                            stack.enter_context(edits[n].around(self.model, [own == n for own, _ in batch]))
                    found += sample([case.prompt_ids for _, case in batch])
        each = len(cases) * self.samples
        return [self._judged(cases, found[n * each : (n + 1) * each]) for n in range(len(edits))]

    def _judged(self, cases: Sequence[EncodedCase], answers: Sequence[Response]) -> tuple[Counted, list[str]]:
        outcomes = [
            (
                n // self.samples,
                self.fault.find(one.text, cases[n // self.samples].case.language, one.ended) is not None,
            )
            for n, one in enumerate(answers)
        ]
        return Counted(tuple(outcomes)), [one.text for one in answers]
