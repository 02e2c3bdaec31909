"""Sample responses to the same prompts at one steering strength after another, and measure their fluency."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..feature_set import FeatureSet
from ..metrics.loops import LoopSettings
from ..metrics.share import Share
from ..sampling import (
    KeptResponses,
    Response,
    SampleRequest,
    SamplingProgress,
    SamplingSettings,
    ScoringEngine,
    sample_requests,
    sample_seed,
)
from ..sampling.gathering import gathered_from_all
from ..wording import counted
from .arguments import Steering
from .curve import Point, SteeredAnswer, layers_named
from .endless import endless_loop
from .vllm_plugin import features_id

K = TypeVar("K", bound=Hashable)

MOST_SURPRISING = 700.0  # nats per token; exp of more would overflow


def setting_number(layers: tuple[int, ...], top: int | None, temperature: float, alpha: float) -> int:
    """The number under which the responses of one setting are kept: the same for the same setting in every run."""
    digest = hashlib.blake2b(repr((layers, top, float(temperature), float(alpha))).encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big")


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
    """Answers the same prompts at one steering strength after another. Each process answers a share of the prompts.

    Args:
        engine: what samples and steers.
        tokenizer: the model's tokenizer.
        features: the features that the engine steers with.
        ids: the prompts, as token ids.
        loop_settings: what counts as a loop.
        progress: whether bars and texts are shown.
        kept: an entered file of kept responses.
    """

    def __init__(
        self,
        engine: ScoringEngine,
        tokenizer: PreTrainedTokenizerBase,
        features: FeatureSet,
        ids: list[list[int]],
        loop_settings: LoopSettings,
        *,
        progress: bool,
        kept: KeptResponses | None = None,
    ) -> None:
        self.process, self.processes = getattr(engine, "process", 0), getattr(engine, "processes", 1)
        self.quiet = not (progress and self.process == 0)
        self.engine, self.tokenizer, self.ids, self.kept = engine, tokenizer, ids, kept
        self.identity, self.every_layer = features_id(features), tuple(layer.layer for layer in features.layers)
        self.loop_settings = loop_settings
        self.plain: dict[tuple[float, int], list[float]] = {}  # by temperature and prompt
        self.answers: list[SteeredAnswer] = []

    def say(self, text: str) -> None:
        if not self.quiet:
            tqdm.write(text, file=sys.stderr)

    def run_plain(self, settings: SamplingSettings) -> Point:
        """Answer without steering. The surprisal of each answer is kept, so that steered answers can be compared."""
        found = self._sampled((), None, settings, [0.0], "unsteered responses")
        before = {prompt: self._before(answer) for (_, prompt), answer in found.items()}
        read = {prompt: (prompt, before[prompt] or answer.ids) for (_, prompt), answer in found.items()}
        outcomes = []
        for prompt, plain in self._surprisals(read).items():
            self.plain[settings.temperature, prompt] = plain
            looped = bool(before[prompt])
            outcomes.append(_Outcome(prompt, found[0.0, prompt], looped, 0, 0.0, len(plain), sum(plain)))
        return self._point((), None, settings.temperature, 0.0, outcomes)

    def run(
        self, layers: tuple[int, ...], top: int | None, settings: SamplingSettings, alphas: Sequence[float]
    ) -> list[Point]:
        """Answer with some layers and features steered at each alpha: a point for each."""
        title = f"{layers_named(layers)}, {'all features' if top is None else counted(top, 'feature')}"
        found = self._sampled(layers, top, settings, alphas, title)
        before = {key: self._before(answer) for key, answer in found.items()}
        own = self._surprisals({key: (key[1], ids) for key, ids in before.items() if ids})
        outcomes: dict[float, list[_Outcome]] = {alpha: [] for alpha in alphas}
        for (alpha, prompt), answer in found.items():
            steered = own.get((alpha, prompt), [])
            plain = self.plain[settings.temperature, prompt][: len(steered)]
            looped = bool(before[alpha, prompt])
            outcomes[alpha].append(_Outcome(prompt, answer, looped, len(steered), sum(steered), len(plain), sum(plain)))
        return [self._point(layers, top, settings.temperature, alpha, of_alpha) for alpha, of_alpha in outcomes.items()]

    def _sampled(
        self,
        layers: tuple[int, ...],
        top: int | None,
        settings: SamplingSettings,
        alphas: Sequence[float],
        title: str,
    ) -> dict[tuple[float, int], Response]:
        """The responses of all processes, by alpha and prompt."""
        chosen = None if layers == self.every_layer else layers
        places = {}
        for prompt, ids in enumerate(self.ids):
            for alpha in alphas:
                steering = Steering(alpha, chosen, top, self.identity).extra_args() if alpha else {}
                # A prompt has the same random numbers at every alpha.
                request = SampleRequest(ids, sample_seed(settings.seed, prompt, 0), steering)
                places[alpha, prompt] = (setting_number(layers, top, settings.temperature, alpha), prompt, 0), request
        share = -(-len(places) // self.processes)
        with SamplingProgress(share, settings.max_new_tokens, title, disable=self.quiet) as bar:
            answers = sample_requests(self.engine, dict(places.values()), settings, kept=self.kept, progress=bar)
        answers = answers.gathered(self.processes)
        if answers.interrupted:
            raise KeyboardInterrupt
        if answers.failures:
            (_, prompt, _), error = min(answers.failures.items())
            raise ValueError(
                f"{len(answers.failures)} responses could not be sampled. The first is one to prompt {prompt + 1}: "
                f"{error} Calibration compares the responses to the same prompts, so leave such prompts out."
            )
        if any(one.tokens and not one.ids for one in answers.found.values()):
            raise ValueError(
                f"{self.engine.name} returns no token ids, and calibration looks for loops in these. Use vLLM's server."
            )
        return {place: answers.found[key] for place, (key, _) in places.items()}

    def _surprisals(self, read: Mapping[K, tuple[int, Sequence[int]]]) -> dict[K, list[float]]:
        """Minus the log-probability of each token, without steering. Each process reads a share.

        Args:
            read: the number of a prompt, and the tokens that follow it.
        """
        mine = list(read)[self.process :: self.processes]
        found: dict[K, list[float]] | None = None
        try:
            logprobs = self.engine.logprobs([(self.ids[read[key][0]], read[key][1]) for key in mine])
            found = {key: [-one for one in values] for key, values in zip(mine, logprobs, strict=True)}
        except KeyboardInterrupt:
            if self.processes == 1:
                raise
        parts, interrupted = gathered_from_all(found) if self.processes > 1 else ([found], False)
        whole: dict[K, list[float]] = {}
        for part in parts:
            if part is None or interrupted:
                raise KeyboardInterrupt
            whole |= part
        return {key: whole[key] for key in read}

    def _before(self, answer: Response) -> Sequence[int]:
        """The tokens of a looped answer up to where it first repeats itself; empty if the answer does not loop."""
        loop = endless_loop(answer, self.tokenizer, self.loop_settings)
        return answer.ids[: loop.start + loop.period] if loop else ()

    def _point(
        self, layers: tuple[int, ...], top: int | None, temperature: float, alpha: float, outcomes: list[_Outcome]
    ) -> Point:
        outcomes = sorted(outcomes, key=lambda outcome: outcome.prompt)
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
