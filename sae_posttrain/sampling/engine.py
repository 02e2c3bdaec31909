"""Sample with transformers, in batches, leaving the model, the tokenizer and the random state as found."""

# B batch, P prompt length, T generated length

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
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
from transformers.generation.logits_process import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper

from ..residual import evaluating
from .draw import Draw, uniform_numbers
from .head import contiguous_head
from .nucleus import Nucleus
from .progress import SamplingProgress
from .requests import FailedSample, SampleRequest, encode_prompts, sample_seed
from .response import Response, decode
from .scoring import response_logprobs
from .settings import SamplingSettings
from .stopping import StopTexts, length_to_stop

NAME = f"transformers {version('transformers')}"


def _unchanged(batch: Sequence[SampleRequest]) -> AbstractContextManager[Any]:
    if any(request.extra_args for request in batch):
        raise ValueError(
            "These requests have extra_args, which only an engine with `around` can follow. Give TransformersEngine "
            "this function."
        )
    return nullcontext()


@dataclass
class TransformersEngine:
    """Samples with a model in this process. Each process of a distributed run samples its share of the batches.

    The batches depend on the prompts and the batch size alone, and each response on its own seed, so that the responses
    are the same for any number of processes, and for a run that is continued.

    Args:
        model, tokenizer: the model and its tokenizer.
        batch_size: responses sampled at once.
        chat: whether the chat template is applied to text prompts too.
        synced: whether every process takes as many steps as the longest one, as split weights need it. All processes
            must then sample the same number of batches. By default `generate` decides.
        process, processes: which share of the batches is sampled here, and how many shares there are.
        around: function from the requests of a batch to a context in which that batch is sampled. It follows the
            requests' `extra_args`, for example by steering some rows. Default: requests with `extra_args` are refused.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 32
    chat: bool = False
    synced: bool | None = None
    process: int = 0
    processes: int = 1
    around: Callable[[Sequence[SampleRequest]], AbstractContextManager[Any]] = _unchanged
    name: str = NAME
    gives_ids: bool = True

    def identity(self) -> dict[str, Any]:
        """The model's name, a checksum over a part of its weights, and whether the chat template is used."""
        name = getattr(self.model.config, "_name_or_path", "")
        return {"engine": "transformers", "model": name, "weights": checksum(self.model), "chat": self.chat}

    def sample(
        self,
        requests: Sequence[SampleRequest],
        settings: SamplingSettings,
        done: Collection[int] = (),
        progress: SamplingProgress | None = None,
    ) -> Iterator[list[tuple[int, Response | FailedSample]]]:
        """As in `SamplingEngine`.

        Raises:
            ValueError: an empty prompt, a missing chat template, or a batch that does not fit into the memory.
        """
        prompts = {id(request.prompt): request.prompt for request in requests}
        encoded = dict(
            zip(prompts, encode_prompts(self.tokenizer, [*prompts.values()], self.chat, settings), strict=True)
        )
        ids = [encoded[id(request.prompt)] for request in requests]
        with sampler(self.model, self.tokenizer, settings, synced=self.synced, progress=progress) as respond:
            for batch in self._batches(ids):
                if all(place in done for place in batch):
                    continue
                asked = [requests[place] for place in batch]
                try:
                    with self.around(asked):
                        found = respond([ids[place] for place in batch], [one.seed for one in asked])
                except torch.OutOfMemoryError as error:
                    raise ValueError(
                        f"{len(batch)} responses at once do not fit into the memory; give a smaller batch_size. {error}"
                    ) from error
                yield [(place, one) for place, one in zip(batch, found, strict=True) if place not in done]

    def logprobs(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """As in `ScoringEngine`."""
        with evaluating(self.model):
            return [response_logprobs(self.model, prompt, response) for prompt, response in pairs]

    def _batches(self, ids: Sequence[Sequence[int]]) -> list[list[int]]:
        """This process's batches of places, with all places of each, whether they are still wanted or not."""
        # Longest first: what does not fit in memory fails at once, and rows of like length are padded least.
        order = sorted(range(len(ids)), key=lambda place: -len(ids[place]))
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        return batches[self.process :: self.processes]


def checksum(model: PreTrainedModel) -> str:
    """A number that tells weights apart: over the names, the types, and four values of each parameter."""
    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in model.named_parameters():
        values = parameter.detach().flatten()[:: max(1, parameter.numel() // 4)][:4]
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)} {values.float().tolist()}".encode())
    return digest.hexdigest()


@contextmanager
def sampler(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: SamplingSettings,
    *,
    synced: bool | None = None,
    progress: SamplingProgress | None = None,
) -> Iterator[Callable[..., list[Response]]]:
    """Yield a function that takes a batch of prompts as token ids, with their seeds, and samples one response to each.

    Without seeds, each prompt gets one from the seed of the settings and its number, counted over all batches.

    Args:
        model, tokenizer: the model and its tokenizer.
        settings: how the tokens are drawn.
        synced: as in `TransformersEngine`.
        progress: a progress bar, which advances with every token.

    Example:
        >>> with sampler(model, tokenizer, SamplingSettings(max_new_tokens=8)) as sample:
        ...     responses = sample(encode_prompts(tokenizer, ["the cat"], chat=False))
    """
    config = _generation_config(model, tokenizer, settings)
    with _own_randomness(model), evaluating(model), _only_config(model, config), contiguous_head(model):
        yield partial(_Batches(model, tokenizer, settings, config, synced, progress).respond)


def _generation_config(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: SamplingSettings
) -> GenerationConfig:
    ends = _ends(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends, default=0)
    # `generate` chooses greedily: where tokens are drawn, `Draw` does it.
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=settings.max_new_tokens,
        eos_token_id=sorted(ends) or None,
        pad_token_id=pad,
        use_cache=True,
    )


def _warpers(settings: SamplingSettings) -> list[LogitsProcessor]:
    """Temperature, top_k, top_p and min_p, in transformers' order; `Nucleus` divides by the temperature itself."""
    if settings.greedy:
        return []
    top_k = [TopKLogitsWarper(settings.top_k)] if settings.top_k > 0 else []
    nucleus: list[LogitsProcessor] = []
    if settings.top_p < 1:
        nucleus = [Nucleus(settings.temperature, settings.top_p)]
    elif settings.temperature != 1:
        nucleus = [TemperatureLogitsWarper(float(settings.temperature))]
    return [*top_k, *nucleus, *([MinPLogitsWarper(settings.min_p)] if settings.min_p > 0 else [])]


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


@dataclass
class _Batches:
    """Answers one batch after another."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    settings: SamplingSettings
    config: GenerationConfig
    synced: bool | None
    progress: SamplingProgress | None
    rows: int = 0

    def respond(self, batch: Sequence[list[int]], seeds: Sequence[int] | None = None) -> list[Response]:
        if self.progress is not None:
            self.progress.start_batch(len(batch))
        seeds = seeds or [sample_seed(self.settings.seed, self.rows + row, 0) for row in range(len(batch))]
        self.rows += len(batch)
        found = [self._response(ids) for ids in self._generate(batch, seeds)]
        if self.progress is not None:
            self.progress.add(len(found), sum(one.tokens or 0 for one in found))
        return found

    def _response(self, ids: list[int]) -> Response:
        """The response of a row of ids, without what follows its end."""
        ends = set(self.config.eos_token_id or [])
        ids = ids[: next((place for place, token in enumerate(ids, start=1) if token in ends), len(ids))]
        stop = length_to_stop(self.tokenizer, ids, self.settings.stop)
        if stop is not None:
            length, text = stop
            return Response(text, "stop", length, tuple(ids[:length]), NAME)
        ended = ids[-1] in ends
        # `skip_special_tokens` may keep an end-of-sequence token that is not marked as special, so its id is removed.
        text = decode(self.tokenizer, tuple(ids[:-1] if ended else ids))
        return Response(text, "stop" if ended else "length", len(ids), tuple(ids), NAME)

    def _generate(self, batch: Sequence[list[int]], seeds: Sequence[int]) -> list[list[int]]:
        """Generate, and return each row's new token ids, with padding after the end of rows that ended early."""
        length, pad = max(map(len, batch)), self.config.pad_token_id
        device = self.model.get_input_embeddings().weight.device
        ids_BP = torch.tensor([[pad] * (length - len(ids)) + ids for ids in batch], device=device)
        mask_BP = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in batch], device=device)
        processors = LogitsProcessorList(_warpers(self.settings))
        if not self.settings.greedy:
            uniform_BT = uniform_numbers(seeds, self.settings.max_new_tokens).to(device)
            processors.append(Draw(uniform_BT, length))
        if self.progress is not None:
            processors.append(_Steps(self.progress))
        output = self.model.generate(
            input_ids=ids_BP,
            attention_mask=mask_BP,
            generation_config=self.config,
            logits_processor=processors,
            stopping_criteria=[StopTexts(self.tokenizer, self.settings.stop, length)] if self.settings.stop else None,
            synced_gpus=self.synced,
        )
        new_BT: Tensor = output[:, length:].cpu()
        return new_BT.tolist()


@contextmanager
def _own_randomness(model: PreTrainedModel) -> Iterator[None]:
    """Restore the states of the generators that a model may use, as some routers and modules of users' own do."""
    gpus = sorted({parameter.device.index for parameter in model.parameters() if parameter.device.type == "cuda"})
    with torch.random.fork_rng(devices=gpus):
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
