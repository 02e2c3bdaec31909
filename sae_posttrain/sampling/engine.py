"""Sample a model's responses to prompts, in batches, leaving the model, the tokenizer and the random state as found."""

# B batch, P prompt length, T generated length

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.generation.logits_process import TopKLogitsWarper

from ..residual import evaluating
from .head import contiguous_head
from .nucleus import Nucleus
from .progress import SamplingProgress
from .requests import Prompt, encode_prompts
from .response import Response
from .settings import PUBLISHED, SamplingSettings, check_counts


def sample_responses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    sampling: SamplingSettings = PUBLISHED,
    *,
    samples: int = 8,
    batch_size: int = 32,
    chat: bool = False,
    progress: bool = True,
    synced: bool | None = None,
) -> list[list[Response]]:
    """Sample responses to each prompt, in the prompts' order.

    Of the model's own generation config only the end-of-sequence ids are used, not its top_k, penalties or lengths. The
    same seed, batch size and machine give the same responses.

    Args:
        model, tokenizer: the model and its tokenizer.
        prompts: texts, or lists of messages, to which the chat template is applied.
        sampling: the temperature, top_p, token limit and seed. The defaults are the published ones.
        samples: responses per prompt; one if the temperature is 0, since all would be equal.
        batch_size: responses sampled at once.
        chat: whether the chat template is applied to text prompts too.
        progress: whether a progress bar is shown.
        synced: whether every process takes as many steps as the longest one, as split weights need it. All processes
            must then sample the same number of batches. By default `generate` decides.

    Returns:
        The responses to each prompt.

    Raises:
        ValueError: an empty prompt, a missing chat template or a number below 1.

    Example:
        >>> responses = sample_responses(model, tokenizer, ["the cat"], SamplingSettings(max_new_tokens=64), samples=2)

    Source: arXiv:2507.14894, code-switching evaluation.
    """
    check_counts(samples=samples, batch_size=batch_size)
    ids = encode_prompts(tokenizer, prompts, chat, sampling)
    distinct = 1 if sampling.greedy else samples
    # Longest first: what does not fit in memory fails at once, and rows of like length are padded least.
    rows = sorted((index for index in range(len(ids)) for _ in range(distinct)), key=lambda index: -len(ids[index]))
    responses: list[list[Response]] = [[] for _ in prompts]
    bar = SamplingProgress(len(rows), sampling.max_new_tokens, disable=not progress)
    with bar, sampler(model, tokenizer, sampling, synced=synced, progress=bar) as sample:
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            for index, response in zip(batch, sample([ids[index] for index in batch]), strict=True):
                responses[index].append(response)
    return responses


@contextmanager
def sampler(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: SamplingSettings,
    *,
    synced: bool | None = None,
    progress: SamplingProgress | None = None,
) -> Iterator[Callable[[Sequence[list[int]]], list[Response]]]:
    """Yield a function that takes a batch of prompts as token ids and samples one response to each.

    Args:
        model, tokenizer: the model and its tokenizer.
        settings: how the tokens are drawn.
        synced: as in `sample_responses`.
        progress: a progress bar, which advances with every token.

    Example:
        >>> with sampler(model, tokenizer, SamplingSettings(max_new_tokens=8)) as sample:
        ...     responses = sample(encode_prompts(tokenizer, ["the cat"], chat=False))
    """
    config = _generation_config(model, tokenizer, settings)
    processors = LogitsProcessorList(_before_generate(settings))
    if progress is not None:
        processors.append(_Steps(progress))
    with _own_randomness(model, settings.seed), evaluating(model), _only_config(model, config), contiguous_head(model):
        yield partial(_responses, model, tokenizer, config, processors, synced=synced, progress=progress)


def _generation_config(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: SamplingSettings
) -> GenerationConfig:
    ends = _ends(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends, default=0)
    choice: dict[str, Any] = {"do_sample": False}
    if not settings.greedy:
        # With a top_p, `Nucleus` divides by the temperature, because it runs before the processors of `generate`.
        temperature = settings.temperature if settings.top_p == 1 else 1.0
        choice = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
        if settings.min_p > 0:
            choice["min_p"] = settings.min_p
    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        eos_token_id=sorted(ends) or None,
        pad_token_id=pad,
        use_cache=True,
        **choice,
    )


def _before_generate(settings: SamplingSettings) -> list[LogitsProcessor]:
    """The processors for top_k and top_p, which run before those of `generate`; top_k needs no temperature."""
    if settings.greedy:
        return []
    top_k = [TopKLogitsWarper(settings.top_k)] if settings.top_k > 0 else []
    return [*top_k, *([Nucleus(settings.temperature, settings.top_p)] if settings.top_p < 1 else [])]


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    own = model.generation_config.eos_token_id if model.generation_config is not None else None
    return {*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id} - {None}


class _Steps(LogitsProcessor):
    """Advances a progress bar at every step, without a host-device sync."""

    def __init__(self, progress: SamplingProgress) -> None:
        self.progress = progress

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.progress.step()
        return scores


def _responses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: GenerationConfig,
    processors: LogitsProcessorList,
    batch: Sequence[list[int]],
    *,
    synced: bool | None,
    progress: SamplingProgress | None,
) -> list[Response]:
    if progress is not None:
        progress.start_batch(len(batch))
    ends = set(config.eos_token_id or [])
    generated = [_with_end(row, ends) for row in _generate(model, config, processors, synced, batch)]
    ended = [ids[-1] in ends for ids in generated]
    # `skip_special_tokens` may keep an end-of-sequence token that is not marked as special, so it is removed by its id.
    said = [ids[:-1] if end else ids for ids, end in zip(generated, ended, strict=True)]
    texts = tokenizer.batch_decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [
        Response(text, "stop" if end else "length", len(ids), tuple(ids))
        for text, end, ids in zip(texts, ended, generated, strict=True)
    ]


def _generate(
    model: PreTrainedModel,
    config: GenerationConfig,
    processors: LogitsProcessorList,
    synced: bool | None,
    batch: Sequence[list[int]],
) -> list[list[int]]:
    """Generate, and return each row's new token ids, with padding after the end of rows that ended early."""
    length = max(map(len, batch))
    device = model.get_input_embeddings().weight.device
    ids_BP = torch.tensor([[config.pad_token_id] * (length - len(ids)) + ids for ids in batch], device=device)
    mask_BP = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in batch], device=device)
    output = model.generate(
        input_ids=ids_BP,
        attention_mask=mask_BP,
        generation_config=config,
        logits_processor=processors,
        synced_gpus=synced,
    )
    new_BT: Tensor = output[:, length:].cpu()
    return new_BT.tolist()


def _with_end(ids: list[int], ends: set[int]) -> list[int]:
    return ids[: next((place for place, token in enumerate(ids, start=1) if token in ends), len(ids))]


@contextmanager
def _own_randomness(model: PreTrainedModel, seed: int) -> Iterator[None]:
    """Seed the generators that sampling uses, and restore their states; torch.manual_seed would seed all devices."""
    gpus = sorted({parameter.device.index for parameter in model.parameters() if parameter.device.type == "cuda"})
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(seed)
        yield


@contextmanager
def _only_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Replace the model's own generation config, which `generate` reads for settings that `config` leaves unset."""
    owners = [module for module in model.modules() if "generation_config" in vars(module)]
    own = [module.generation_config for module in owners]
    try:
        for module in owners:
            module.generation_config = config
        yield
    finally:
        for module, generation_config in zip(owners, own, strict=True):
            module.generation_config = generation_config
