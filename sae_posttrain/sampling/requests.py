"""The interface of all sampling engines: their requests, and their results."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard

from transformers import PreTrainedTokenizerBase

from .progress import SamplingProgress
from .response import Response
from .settings import SamplingSettings

Prompt = str | list[dict[str, Any]]
TokenIds = list[int]
"""A prompt as token ids, which no chat template changes."""


@dataclass(frozen=True)
class SampleRequest:
    """The request for one response.

    Args:
        prompt: a text, a list of messages, or token ids.
        seed: seed of this response alone; see `sample_seed`.
        extra_args: what else the engine is told about this response, by name. vLLM and its server pass it to their
            plugins, in `SamplingParams.extra_args`. `TransformersEngine` passes it to its `around`.
    """

    prompt: Prompt | TokenIds
    seed: int = 0
    extra_args: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class FailedSample:
    """A response that could not be sampled.

    Args:
        error: what went wrong, as a sentence.
    """

    error: str


class SamplingEngine(Protocol):
    """A program that samples responses: transformers, vLLM, or a server."""

    @property
    def name(self) -> str:
        """The program and its version, such as `vllm 0.32.0`."""

    @property
    def gives_ids(self) -> bool:
        """Whether responses have their token ids, so that they can be cut to shorter limits."""

    def identity(self) -> dict[str, Any]:
        """Everything but prompts and settings that a run's responses depend on: the model, its adapter, its dtype."""

    def sample(
        self,
        requests: Sequence[SampleRequest],
        settings: SamplingSettings,
        done: Collection[int] = (),
        progress: SamplingProgress | None = None,
    ) -> Iterator[list[tuple[int, Response | FailedSample]]]:
        """Sample responses, and yield each group as soon as it is complete, with the indices in `requests`.

        Args:
            requests: all requests of the run, so that an engine can form the same batches when it continues the run.
            settings: how the responses are sampled.
            done: indices of requests that were answered in an earlier call; they are not answered again.
            progress: a progress bar that the engine advances.
        """


class ScoringEngine(SamplingEngine, Protocol):
    """A sampling engine that also computes the probability of given tokens."""

    def logprobs(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """The log-probability of each given token, under the model as it is: at temperature 1, without any steering.

        Args:
            pairs: prompts with their responses, both as token ids; no prompt is empty.

        Returns:
            For each pair, one number in nats per token of the response. Tokens that do not fit into the model's context
            together with the prompt are left out.
        """


def is_token_ids(prompt: Prompt | TokenIds) -> TypeGuard[TokenIds]:
    """Whether a prompt is given as token ids."""
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], int)


def sample_seed(seed: int, prompt: int, sample: int) -> int:
    """The seed of one response, which does not depend on the number of prompts, batches and processes.

    Args:
        seed: the run's seed.
        prompt: the prompt's place in the run, from 0.
        sample: number of the response to that prompt, from 0.

    Returns:
        A number from 0 to 2^31 − 1, which every server accepts.

    Example:
        >>> sample_seed(0, prompt=3, sample=1) == sample_seed(0, prompt=3, sample=1) != sample_seed(0, 3, 2)
        True
    """
    digest = hashlib.blake2b(f"{seed} {prompt} {sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 33


def requests_for(
    prompts: Sequence[Prompt | TokenIds], settings: SamplingSettings, samples: int, places: Sequence[int] | None = None
) -> list[SampleRequest]:
    """The requests of a run: all samples of the first prompt, then those of the second, and so on.

    Args:
        prompts: texts, lists of messages or token ids.
        settings: the run's settings, with its seed.
        samples: responses per prompt; one if the temperature is 0, since all would be equal.
        places: the prompts' places in a longer list, for their seeds. Default: 0, 1, 2 and so on.
    """
    numbers = range(1 if settings.greedy else samples)
    return [
        SampleRequest(prompt, sample_seed(settings.seed, place, number))
        for place, prompt in zip(range(len(prompts)) if places is None else places, prompts, strict=True)
        for number in numbers
    ]


def as_messages(prompt: Prompt | TokenIds, settings: SamplingSettings) -> list[dict[str, Any]]:
    """A prompt as chat messages. If it has no system message, that of the settings comes first."""
    assert not is_token_ids(prompt), "token ids are sent as they are"
    messages: Any = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if settings.system is None or (messages and messages[0].get("role") == "system"):
        return list(messages)
    return [{"role": "system", "content": settings.system}, *messages]


def check_plain(settings: SamplingSettings) -> None:
    """Check that no setting needs the chat template, for prompts that are plain texts.

    Raises:
        ValueError: a setting needs it.
    """
    if settings.system is not None or settings.chat_template_args:
        given = "system" if settings.system is not None else "chat_template_args"
        raise ValueError(f"{given} needs the chat template, but the prompts are read as plain texts; give chat=True.")


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt | TokenIds],
    chat: bool,
    settings: SamplingSettings | None = None,
) -> list[list[int]]:
    """Encode each prompt as token ids. The chat template is applied to lists of messages and, with `chat`, to texts.

    Args:
        tokenizer: the model's tokenizer.
        prompts: texts, lists of messages, or token ids, which are left as they are.
        chat: whether the chat template is applied to texts too.
        settings: settings with the system message and the chat template's values. Default: neither.

    Raises:
        ValueError: a prompt is empty, or the tokenizer needs a chat template and has none.
    """
    settings = settings or SamplingSettings()
    return [_encode(tokenizer, prompt, chat, settings) for prompt in prompts]


def _encode(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt | TokenIds, chat: bool, settings: SamplingSettings
) -> list[int]:
    if is_token_ids(prompt):
        return list(prompt)
    if isinstance(prompt, str) and not chat:
        check_plain(settings)
        ids = _ids(tokenizer, prompt, special=True)
    else:
        if tokenizer.chat_template is None:
            raise ValueError("the tokenizer has no chat template; give the prompts as plain texts, with chat=False.")
        text = tokenizer.apply_chat_template(
            as_messages(prompt, settings), tokenize=False, add_generation_prompt=True, **settings.chat_template_args
        )
        ids = _ids(tokenizer, text, special=False)
    if not ids:
        raise ValueError(f"prompt {prompt!r} holds no tokens; leave it out.")
    return ids


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> list[int]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"prompt {text!r:.200} holds the lone surrogate {text[error.start]!r}, half of a character, which has no "
            "tokens; correct it, or leave it out."
        ) from None
    return list(tokenizer(text, add_special_tokens=special)["input_ids"])
