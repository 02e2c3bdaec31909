"""Calibration: find the weakest steering that makes a model loop while the text before the loop stays fluent."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..feature_set import FeatureSet
from ..metrics.loops import EXACT_LOOPS, LoopSettings
from ..sampling import (
    KeptResponses,
    Prompt,
    SamplingSettings,
    ScoringEngine,
    TransformersEngine,
    encode_prompts,
)
from ..wording import counted, duration
from .curve import Calibration, Point
from .endless import check_loop_fits
from .steered_engine import check_steers, steered_engine
from .trial import Trial

logger = logging.getLogger(__name__)

SAMPLING = SamplingSettings(top_p=1.0, max_new_tokens=256)
ALPHAS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)


def calibrate(
    model: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    features: FeatureSet | str | Path,
    prompts: Sequence[Prompt],
    *,
    alphas: Sequence[float] = ALPHAS,
    top: Sequence[int] | None = None,
    temperatures: Sequence[float] | None = None,
    refine: int = 0,
    target_rate: float = 0.9,
    max_ratio: float = 2.0,
    sampling: SamplingSettings = SAMPLING,
    chat: bool = False,
    batch_size: int = 32,
    loop_settings: LoopSettings = EXACT_LOOPS,
    progress: bool = True,
    engine: ScoringEngine | None = None,
    kept: KeptResponses | None = None,
) -> Calibration:
    """Find how strongly to steer so that responses loop while the text before the loop stays fluent.

    It steers with each layer alone and with all layers, at every number of features, temperature and alpha, and samples
    one response to each prompt at each of these. Fluency is measured as perplexity under the unsteered model. It covers
    the response up to where it first repeats itself, the loop's first period included. It is compared with the
    perplexity of the same number of tokens of the unsteered response to the same prompt. The settings are chosen on the
    same prompts that they are measured on, so the figures of the best one are optimistic.

    Args:
        model, tokenizer: the model that will be trained. With an `engine`, the model is not used and may be None.
        features: the features to steer with: a feature set, or its path.
        prompts: texts or messages, such as the training prompts.
        alphas: the strengths to try, in units of typical strength.
        top: numbers of features per layer to try; the features that discovery ranked highest are taken. Default: one,
            and all.
        temperatures: sampling temperatures to try. Default: the temperature of `sampling`.
        refine: how often to halve, on a logarithmic scale, the gap below each curve's smallest alpha that reaches the
            target.
        target_rate: the share of responses that should end in a loop.
        max_ratio: largest perplexity allowed for the text before the loop, as a multiple of the unsteered one.
        sampling: how the responses are sampled. Use the temperature of the later training, since the alpha will be used
            there.
        chat: whether the chat template is applied to text prompts too.
        batch_size: responses sampled at once.
        loop_settings: what counts as a loop in token ids. With `fold_digits`, a response is also a loop if its text
            repeats except for numbers that count up or down.
        progress: whether to print the cost before the start, and to show progress bars.
        engine: what samples, steers and scores the responses: `steered_engine`, a `VllmEngine` that was started with
            these features, or a `ServerEngine` for a vLLM server that was. Default: transformers, with `model`.
        kept: an entered file of kept responses. What is in it is not sampled again, and new responses are added to it.

    Returns:
        The curve; `calibrated()` is the feature set to train with.

    Raises:
        ValueError: the features belong to another model, the engine does not steer, or a setting is out of range.

    Example:
        >>> sampling = SamplingSettings(temperature=0.7, top_p=1.0, max_new_tokens=128)
        >>> calibration = calibrate(model, tokenizer, features, prompts, alphas=[1.0, 2.0, 4.0], sampling=sampling)
        >>> print(calibration.table())
        >>> calibration.calibrated().save("features.safetensors")

    Source: arXiv:2605.11887, section 8, for the steering. It publishes no target, bound or alpha; these defaults are
    ours.
    """
    features = FeatureSet.of(features)
    alphas = _check(prompts, alphas, refine, target_rate, max_ratio, batch_size)
    check_loop_fits(sampling.max_new_tokens, loop_settings)
    warmths = [replace(sampling, temperature=one) for one in dict.fromkeys(temperatures or [sampling.temperature])]
    plans = [(layers, number, warmth) for warmth in warmths for layers, number in _plans(features, top)]
    ids = encode_prompts(tokenizer, prompts, chat, sampling)
    if engine is None:
        if model is None:
            raise ValueError("Give a model, or an engine that samples and steers.")
        engine = steered_engine(model, tokenizer, features, batch_size)
    elif not isinstance(engine, TransformersEngine):
        check_steers(engine, features, ids[0])
    trial = Trial(engine, tokenizer, features, ids, loop_settings, progress=progress, kept=kept)
    trial.say(cost(len(ids), len(warmths), len(plans), len(alphas), sampling.max_new_tokens))
    began = time.monotonic()
    plain = [trial.run_plain(warmth) for warmth in warmths]
    each = (time.monotonic() - began) / len(plain)
    trial.say(f"The steered responses will take up to about {duration(each * len(plans) * len(alphas))}.")
    if plain[0].rate >= target_rate:
        logger.warning("%.0f%% of the responses loop without any steering.", 100 * plain[0].rate)
    points: list[Point] = []
    for layers, number, warmth in plans:
        curve = trial.run(layers, number, warmth, alphas)
        for _ in range(refine):
            enough = [point.alpha for point in curve if point.reaches(target_rate, max_ratio)]
            below = [point.alpha for point in curve if enough and point.alpha < min(enough)]
            if not below:
                break
            curve += trial.run(layers, number, warmth, [math.sqrt(max(below) * min(enough))])
        points += sorted(curve, key=lambda point: point.alpha)
    return Calibration(
        features, plain[0], tuple(points), target_rate, max_ratio, tuple(plain[1:]), tuple(trial.answers)
    )


def cost(prompts: int, temperatures: int, plans: int, alphas: int, max_new_tokens: int) -> str:
    """How many responses a calibration samples, in words."""
    steered = prompts * plans * alphas
    return (
        f"Calibration samples {prompts * temperatures:,} unsteered and {steered:,} steered responses of at most "
        f"{max_new_tokens} tokens: {counted(prompts, 'prompt')}, {counted(plans, 'combination')} of layers, features "
        f"and temperature, {counted(alphas, 'alpha')}. Fewer of any of these take less time."
    )


def _plans(features: FeatureSet, top: Sequence[int] | None) -> list[tuple[tuple[int, ...], int | None]]:
    """The layers to steer together, and the number of features of each; None means all features."""
    layers = [layer.layer for layer in features.layers]
    most = {layer.layer: len(layer.ids) for layer in features.layers}
    if top is not None and (not top or min(top) < 1):
        raise ValueError(f"top={list(top)}: expected numbers of features per layer, each at least 1.")
    found: dict[tuple[tuple[int, ...], int | None], None] = {}
    for plan in [(layer,) for layer in layers] + ([tuple(layers)] if len(layers) > 1 else []):
        for number in [1, None] if top is None else top:
            # Numbers that select all features of these layers are the same plan.
            every = number is None or number >= max(most[layer] for layer in plan)
            found[plan, None if every else number] = None
    return list(found)


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
