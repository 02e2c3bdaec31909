"""Calibration: the weakest steering that makes a model loop while what it says before stays fluent."""

# S sequence, V vocabulary

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..feature_set import FeatureSet
from ..generation import Prompt, Response, encode_prompts, sampling
from ..metrics import find_loop
from ..metrics.interval import clustered_interval
from ..metrics.loops import DEFAULT_LOOPS, LoopSettings
from ..residual import inputs_device
from ..steering import steer
from .curve import Calibration, Point, named
from .loops import check_loop_fits

logger = logging.getLogger(__name__)

T = TypeVar("T")

ALPHAS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
MOST_SURPRISING = 700.0  # nats per token; more would overflow


def calibrate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    features: FeatureSet,
    prompts: Sequence[Prompt],
    *,
    alphas: Sequence[float] = ALPHAS,
    refine: int = 0,
    target_rate: float = 0.9,
    max_ratio: float = 2.0,
    max_new_tokens: int = 512,
    temperature: float = 1.0,
    top_p: float = 1.0,
    chat: bool = False,
    batch_size: int = 32,
    seed: int = 0,
    loop_settings: LoopSettings = DEFAULT_LOOPS,
    progress: bool = True,
) -> Calibration:
    """Steer with each layer alone, and with all of them, at every alpha; one response to each prompt at each.

    The text before a loop is judged with the loop's first period, up to where the response first repeats itself, by
    its perplexity under the unsteered model; as much of the unsteered response to the same prompt is what it is
    compared with. Sampling is as in training unless told otherwise, since that is where the alpha will be used. No
    source publishes a target, a bound or an alpha; these defaults are ours.

    Args:
        alphas: in units of typical strength.
        refine: how often to halve, on a logarithmic scale, the gap below each layer's smallest alpha that will do.
        target_rate: the share of responses that should end in a loop.
        max_ratio: how much higher than the unsteered perplexity that before the loop may be.
        loop_settings: what counts as a loop in token ids.

    Raises:
        ValueError: features of another model, or settings out of range.
    """
    alphas = _check(prompts, alphas, refine, target_rate, max_ratio, batch_size)
    check_loop_fits(max_new_tokens, loop_settings)
    settings = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens, "seed": seed}
    ids = encode_prompts(tokenizer, prompts, chat)
    trial = _Trial(model, tokenizer, ids, settings, loop_settings, batch_size, progress)
    layers = [layer.layer for layer in features.layers]
    plans = [(layer,) for layer in layers] + ([tuple(layers)] if len(layers) > 1 else [])
    plain = trial.run_plain()
    if plain.rate >= target_rate:
        logger.warning("%.0f%% of the responses loop without any steering.", 100 * plain.rate)
    points: list[Point] = []
    for plan in plans:
        chosen = replace(features, layers=tuple(layer for layer in features.layers if layer.layer in plan))
        curve = trial.run(chosen, alphas)
        for _ in range(refine):
            enough = [point.alpha for point in curve if point.reaches(target_rate, max_ratio)]
            below = [point.alpha for point in curve if enough and point.alpha < min(enough)]
            if not below:
                break
            curve += trial.run(chosen, [math.sqrt(max(below) * min(enough))])
        points += sorted(curve, key=lambda point: point.alpha)
    return Calibration(features, plain, tuple(points), target_rate, max_ratio)


def surprisal(model: PreTrainedModel, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """Negative log-probability of each of the answer's tokens, in nats."""
    ids_1S = torch.tensor([[*prompt, *answer]], device=inputs_device(model))
    with torch.no_grad():
        logits_SV = model(input_ids=ids_1S, use_cache=False, logits_to_keep=len(answer) + 1).logits[0, :-1]
    targets_S = ids_1S[0, len(prompt) :].to(logits_SV.device)
    return cross_entropy(logits_SV.float(), targets_S, reduction="none").tolist()


@dataclass(frozen=True)
class _Outcome:
    """Of one response: whether it loops and, up to where it first repeats, its surprisal and the unsteered one's."""

    prompt: int
    looped: bool
    tokens: int = 0
    surprisal: float = 0.0
    plain_tokens: int = 0
    plain_surprisal: float = 0.0


class _Trial:
    """Answers the same prompts at one strength of steering after another. Each process answers its share of them."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        ids: list[list[int]],
        settings: dict[str, Any],
        loop_settings: LoopSettings,
        batch_size: int,
        progress: bool,
    ) -> None:
        state = PartialState()
        self.quiet = not (progress and state.is_main_process)
        self.model, self.tokenizer, self.ids, self.batch_size = model, tokenizer, ids, batch_size
        self.loop_settings = loop_settings
        self.settings = {**settings, "seed": settings["seed"] + state.process_index}
        mine = range(state.process_index, len(ids), state.num_processes)
        # Longest first: what does not fit in memory fails at once, and rows of like length are padded least.
        self.mine = sorted(mine, key=lambda prompt: -len(ids[prompt]))
        self.plain: dict[int, list[float]] = {}

    def run_plain(self) -> Point:
        """Answer without steering; keeps how surprising each answer is, for the others to be compared with."""
        outcomes = []
        with self._sampling() as sample:
            for batch in self._batches(self.mine, "answering unsteered"):
                for prompt, answer in zip(batch, sample([self.ids[prompt] for prompt in batch]), strict=True):
                    before = self._before(answer)
                    plain = surprisal(self.model, self.ids[prompt], before or answer.ids)
                    self.plain[prompt] = plain
                    outcomes.append(_Outcome(prompt, bool(before), plain_tokens=len(plain), plain_surprisal=sum(plain)))
        return self._point((), 0.0, outcomes)

    def run(self, features: FeatureSet, alphas: Sequence[float]) -> list[Point]:
        layers = tuple(layer.layer for layer in features.layers)
        rows = [(alpha, prompt) for prompt in self.mine for alpha in alphas]
        outcomes: dict[float, list[_Outcome]] = {alpha: [] for alpha in alphas}
        with self._sampling() as sample:
            for batch in self._batches(rows, f"steering {named(layers)}"):
                with steer(self.model, features, alpha=[alpha for alpha, _ in batch]):
                    answers = sample([self.ids[prompt] for _, prompt in batch])
                for (alpha, prompt), answer in zip(batch, answers, strict=True):
                    outcomes[alpha].append(self._outcome(prompt, answer))
        return [self._point(layers, alpha, of_alpha) for alpha, of_alpha in outcomes.items()]

    def _sampling(self) -> Any:
        return sampling(self.model, self.tokenizer, **self.settings)

    def _batches(self, rows: Sequence[T], title: str) -> Iterator[Sequence[T]]:
        for start in tqdm(range(0, len(rows), self.batch_size), title, disable=self.quiet):
            yield rows[start : start + self.batch_size]

    def _before(self, answer: Response) -> Sequence[int]:
        """A looped answer up to where it first repeats itself; nothing of one that does not loop."""
        loop = find_loop(answer.ids, self.loop_settings, ended=answer.ended)
        return answer.ids[: loop.start + loop.period] if loop else ()

    def _outcome(self, prompt: int, answer: Response) -> _Outcome:
        before = self._before(answer)
        if not before:
            return _Outcome(prompt, looped=False)
        plain = self.plain[prompt][: len(before)]
        own = surprisal(self.model, self.ids[prompt], before)
        return _Outcome(prompt, True, len(own), sum(own), len(plain), sum(plain))

    def _point(self, layers: tuple[int, ...], alpha: float, outcomes: list[_Outcome]) -> Point:
        outcomes = gather_object(outcomes)
        looped = [outcome.looped for outcome in outcomes]
        low, high = clustered_interval(looped, [tuple(self.ids[outcome.prompt]) for outcome in outcomes])
        return Point(
            layers,
            alpha,
            looped=sum(looped),
            total=len(looped),
            low=low,
            high=high,
            perplexity=_perplexity((one.surprisal, one.tokens) for one in outcomes),
            plain_perplexity=_perplexity((one.plain_surprisal, one.plain_tokens) for one in outcomes),
        )


def _perplexity(surprisals: Iterable[tuple[float, int]]) -> float | None:
    total, tokens = map(sum, zip(*surprisals, strict=True))
    return math.exp(min(total / tokens, MOST_SURPRISING)) if tokens else None


def _check(
    prompts: Sequence[Prompt],
    alphas: Sequence[float],
    refine: int,
    target_rate: float,
    max_ratio: float,
    batch_size: int,
) -> list[float]:
    if not prompts:
        raise ValueError("There are no prompts to steer from.")
    if not alphas or not all(math.isfinite(alpha) and alpha > 0 for alpha in alphas):
        raise ValueError(f"alphas {list(alphas)}: expected finite numbers above 0, in units of typical strength.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected at least 1.")
    if not 0 < target_rate <= 1 or not max_ratio > 0 or refine < 0:
        raise ValueError(
            f"target_rate={target_rate}, max_ratio={max_ratio}, refine={refine}: expected a share above 0 and at most "
            "1, a bound above 0, and a number of rounds."
        )
    return sorted(set(map(float, alphas)))
