"""How responses are sampled: one value, whatever engine samples them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any


@dataclass(frozen=True)
class SamplingSettings:
    """How each token is drawn, when a response ends, and the random seed. The defaults are the published settings.

    Args:
        temperature: the logits are divided by it; 0 is greedy decoding.
        top_p: share of the probability that is kept, the most probable tokens first; above 0 and at most 1.
        max_new_tokens: the token limit of a response.
        top_k: number of the most probable tokens that are kept, before `top_p`; 0 keeps all.
        min_p: after `top_p`, tokens less probable than this share of the most probable token are dropped.
        seed: random seed. Each response has its own seed, which follows from this one, the prompt's index and the
            number of the sample.
        stop: texts that end a response. They are not part of it.
        system: a system message that is put before prompts without one. It needs the chat template.
        chat_template_args: values that the chat template reads, such as `{"enable_thinking": False}`.

    Raises:
        ValueError: a setting is out of range; the message names it.

    Example:
        >>> SamplingSettings(temperature=0.7, top_p=0.95, max_new_tokens=512).greedy
        False

    Source: arXiv:2507.14894, code-switching evaluation, for the defaults.
    """

    temperature: float = 1.0
    top_p: float = 0.8
    max_new_tokens: int = 2048
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    system: str | None = None
    chat_template_args: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_temperature_and_top_p(self.temperature, self.top_p)
        check_counts(max_new_tokens=self.max_new_tokens)
        check_counts(least=0, top_k=self.top_k)
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be between 0 and 1, got {self.min_p}.")
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(f"stop must be a tuple of texts, none of them empty, got {self.stop!r}.")

    @property
    def greedy(self) -> bool:
        """Whether decoding is greedy, so that every response to a prompt is the same."""
        return self.temperature == 0


def check_temperature_and_top_p(temperature: float, top_p: float) -> None:
    """Check the two settings that most engines share.

    Raises:
        ValueError: a value is out of range.
    """
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be 0 (greedy) or more, and finite, got {temperature}.")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}.")


def check_counts(*, least: int = 1, **counts: int) -> None:
    """Check that each value is a whole number of at least `least`; the message names the argument.

    Raises:
        ValueError: a value is not whole, or too small.
    """
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError(f"{name} must be a whole number, got {value!r}.")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")


PUBLISHED = SamplingSettings()
"""The settings of arXiv:2507.14894, and the defaults of `sample_responses`."""
