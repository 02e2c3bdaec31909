"""Sample responses to the same prompts at one steering strength after another, and measure their fluency."""

# S sequence, V vocabulary

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..feature_set import FeatureSet
from ..metrics.loops import LoopSettings
from ..metrics.share import Share
from ..residual import inputs_device
from ..sampling import Response, SamplingProgress, SamplingSettings, sample_seed, sampler
from ..wording import counted
from .curve import Point, SteeredAnswer, layers_named
from .endless import endless_loop
from .generate import steer

T = TypeVar("T")

MOST_SURPRISING = 700.0  # nats per token; exp of more would overflow


def surprisal(model: PreTrainedModel, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """Negative log-probability of each token of the answer, in nats."""
    ids_1S = torch.tensor([[*prompt, *answer]], device=inputs_device(model))
    with torch.no_grad():
        logits_SV = model(input_ids=ids_1S, use_cache=False, logits_to_keep=len(answer) + 1).logits[0, :-1]
    targets_S = ids_1S[0, len(prompt) :].to(logits_SV.device)
    return cross_entropy(logits_SV.float(), targets_S, reduction="none").tolist()


@dataclass(frozen=True)
class _Outcome:
    """One response: whether it loops, its surprisal up to where it first repeats, and the unsteered response's."""

    prompt: int
    response: Response
    looped: bool
    tokens: int = 0
    surprisal: float = 0.0
    plain_tokens: int = 0
    plain_surprisal: float = 0.0


class Trial:
    """Answers the same prompts at one steering strength after another. Each process answers a share of the prompts."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        ids: list[list[int]],
        loop_settings: LoopSettings,
        batch_size: int,
        progress: bool,
    ) -> None:
        state = PartialState()
        self.quiet = not (progress and state.is_main_process)
        self.model, self.tokenizer, self.ids, self.batch_size = model, tokenizer, ids, batch_size
        self.loop_settings = loop_settings
        mine = range(state.process_index, len(ids), state.num_processes)
        # Longest first: a batch that does not fit in memory fails at once, and rows of similar length need little
        # padding.
        self.mine = sorted(mine, key=lambda prompt: -len(ids[prompt]))
        self.plain: dict[tuple[float, int], list[float]] = {}  # by temperature and prompt
        self.answers: list[SteeredAnswer] = []

    def say(self, text: str) -> None:
        if not self.quiet:
            tqdm.write(text, file=sys.stderr)

    def run_plain(self, settings: SamplingSettings) -> Point:
        """Answer without steering. The surprisal of each answer is kept, so that steered answers can be compared."""
        outcomes = []
        with self._sampling(settings, len(self.mine), "unsteered responses") as sample:
            for batch in self._batches(self.mine):
                seeds = [sample_seed(settings.seed, prompt, 0) for prompt in batch]
                answers = sample([self.ids[prompt] for prompt in batch], seeds)
                for prompt, answer in zip(batch, answers, strict=True):
                    before = self._before(answer)
                    plain = surprisal(self.model, self.ids[prompt], before or answer.ids)
                    self.plain[settings.temperature, prompt] = plain
                    outcomes.append(_Outcome(prompt, answer, bool(before), 0, 0.0, len(plain), sum(plain)))
        return self._point((), None, settings.temperature, 0.0, outcomes)

    def run(
        self, features: FeatureSet, top: int | None, settings: SamplingSettings, alphas: Sequence[float]
    ) -> list[Point]:
        layers = tuple(layer.layer for layer in features.layers)
        rows = [(alpha, prompt) for prompt in self.mine for alpha in alphas]
        outcomes: dict[float, list[_Outcome]] = {alpha: [] for alpha in alphas}
        title = f"{layers_named(layers)}, {'all features' if top is None else counted(top, 'feature')}"
        with self._sampling(settings, len(rows), title) as sample:
            for batch in self._batches(rows):
                with steer(self.model, features, alpha=[alpha for alpha, _ in batch]):
                    # A prompt has the same random numbers at every alpha.
                    seeds = [sample_seed(settings.seed, prompt, 0) for _, prompt in batch]
                    answers = sample([self.ids[prompt] for _, prompt in batch], seeds)
                for (alpha, prompt), answer in zip(batch, answers, strict=True):
                    outcomes[alpha].append(self._outcome(prompt, answer, settings.temperature))
        return [self._point(layers, top, settings.temperature, alpha, of_alpha) for alpha, of_alpha in outcomes.items()]

    @contextmanager
    def _sampling(self, settings: SamplingSettings, rows: int, title: str) -> Iterator[Any]:
        bar = SamplingProgress(rows, settings.max_new_tokens, title, disable=self.quiet)
        with bar, sampler(self.model, self.tokenizer, settings, progress=bar) as sample:
            yield sample

    def _batches(self, rows: Sequence[T]) -> Iterator[Sequence[T]]:
        for start in range(0, len(rows), self.batch_size):
            yield rows[start : start + self.batch_size]

    def _before(self, answer: Response) -> Sequence[int]:
        """The tokens of a looped answer up to where it first repeats itself; empty if the answer does not loop."""
        loop = endless_loop(answer, self.tokenizer, self.loop_settings)
        return answer.ids[: loop.start + loop.period] if loop else ()

    def _outcome(self, prompt: int, answer: Response, temperature: float) -> _Outcome:
        before = self._before(answer)
        if not before:
            return _Outcome(prompt, answer, looped=False)
        plain = self.plain[temperature, prompt][: len(before)]
        own = surprisal(self.model, self.ids[prompt], before)
        return _Outcome(prompt, answer, True, len(own), sum(own), len(plain), sum(plain))

    def _point(
        self, layers: tuple[int, ...], top: int | None, temperature: float, alpha: float, outcomes: list[_Outcome]
    ) -> Point:
        outcomes = sorted(gather_object(outcomes), key=lambda outcome: outcome.prompt)
        self.answers += [
            SteeredAnswer(one.prompt, layers, top, temperature, alpha, one.looped, one.response) for one in outcomes
        ]
        prompts = [tuple(self.ids[outcome.prompt]) for outcome in outcomes]
        return Point(
            layers,
            alpha,
            loops=Share.of([outcome.looped for outcome in outcomes], prompts),
            perplexity=_perplexity((one.surprisal, one.tokens) for one in outcomes),
            plain_perplexity=_perplexity((one.plain_surprisal, one.plain_tokens) for one in outcomes),
            top=top,
            temperature=temperature,
            tokens=sum(len(one.response.ids) for one in outcomes) / len(outcomes),
            ended=sum(one.response.finish_reason == "stop" for one in outcomes),
        )


def _perplexity(surprisals: Iterable[tuple[float, int]]) -> float | None:
    total, tokens = map(sum, zip(*surprisals, strict=True))
    return math.exp(min(total / tokens, MOST_SURPRISING)) if tokens else None
