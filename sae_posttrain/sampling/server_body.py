"""The bodies of requests to a server and of its answers.

Of the settings, those that OpenAI's protocol lacks are left out if the server rejects them. Of an answer, nothing is
trusted to have the right type: the client does not check it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from .requests import SampleRequest
from .settings import SamplingSettings

logger = logging.getLogger(__name__)

BAD_REQUEST = (400, 422)
PLUGINS = "vllm_xargs"
"""The field from which vLLM's server takes what its plugins are told."""


class Body:
    """The fields of every request of a run, except the prompt and the seed.

    A server would otherwise take top_k, min_p and the repetition penalty from the model's own generation config or from
    its own defaults, so that all are sent, also where they change nothing. Servers that know only OpenAI's fields may
    refuse the others. Those that change nothing are then left out.

    Args:
        model: name of the model on the server.
        settings: how responses are sampled.
    """

    def __init__(self, model: str, settings: SamplingSettings) -> None:
        self.settings = settings
        self.length = "max_tokens"  # newer models of OpenAI know it by another name only
        self.common: dict[str, Any] = {"model": model, "temperature": settings.temperature, "top_p": settings.top_p}
        if settings.stop:
            self.common["stop"] = list(settings.stop)
        neutral: dict[str, Any] = {"repetition_penalty": 1.0, "return_token_ids": True}
        needed: dict[str, Any] = {}
        (needed if settings.top_k else neutral)["top_k"] = settings.top_k or -1
        (needed if settings.min_p else neutral)["min_p"] = settings.min_p
        self.neutral, self.needed = neutral, needed
        self.of_chat = (
            {"chat_template_kwargs": dict(settings.chat_template_args)} if settings.chat_template_args else {}
        )

    def options(self, request: SampleRequest, *, chat: bool) -> dict[str, Any]:
        """The arguments of the client's `create` for a request, without the prompt."""
        to_plugins = {PLUGINS: dict(request.extra_args)} if request.extra_args else {}
        extra = {**self.neutral, **self.needed, **to_plugins, **(self.of_chat if chat else {})}
        length = {self.length: self.settings.max_new_tokens}
        return {**self.common, **length, "seed": request.seed, "extra_body": extra}

    def give_way(self, message: str, status: int, sent: dict[str, Any]) -> bool:
        """Decide whether to send a rejected request again, with fewer fields or with another name for the limit.

        Args:
            message, status: the server's message and status.
            sent: the options of the rejected request. Many requests are sent at the same time, so another one may have
                changed the options since.
        """
        if status not in BAD_REQUEST:
            return False
        if self.length == "max_tokens" and "max_completion_tokens" in message:
            self.length = "max_completion_tokens"
        elif self.neutral and any(name in message for name in self.neutral):
            logger.warning("The server refuses one of %s; its own defaults hold for them.", ", ".join(self.neutral))
            self.neutral = {}
        known = {*self.neutral, *self.needed, *self.of_chat, PLUGINS}
        return self.length not in sent or not sent["extra_body"].keys() <= known


def first_choice(found: Any) -> Any:
    """The choice of an answer. Raises: TypeError: it has none."""
    if not isinstance(found.choices, list) or not found.choices:
        raise TypeError(f"its choices are {found.choices!r:.80}")
    return found.choices[0]


def token_ids_of(choice: Any) -> tuple[int, ...]:
    """The token ids of a choice; empty if the server returns none, or none that are numbers."""
    ids = getattr(choice, "token_ids", None)
    known = isinstance(ids, list) and all(type(one) is int for one in ids)
    return tuple(ids) if known and ids else ()


def tokens_of(found: Any, ids: Sequence[int]) -> int | None:
    """The number of generated tokens of an answer; None if the server does not tell it."""
    told = getattr(getattr(found, "usage", None), "completion_tokens", None)
    if told is None:
        return len(ids) or None
    whole = type(told) is int or (isinstance(told, float) and told.is_integer())
    return int(told) if whole and told >= 0 else None
