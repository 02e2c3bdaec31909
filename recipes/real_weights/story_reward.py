"""The task of the experiment on repetition: answers that are about their subject and have a certain length."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sae_posttrain.metrics import text_of

WORDS = 75  # of an answer; 128 tokens of this model are about 95 words
_STOP = frozenset(["a", "an", "the", "in", "at", "of", "to"])


def about_the_subject(
    prompts: Sequence[Any], completions: Sequence[Any], subject: Sequence[str], **kwargs: Any
) -> list[float]:
    """Half for the share of the subject's words that the answer uses, half for its length, up to `WORDS` words.

    A word counts once however often it is used, and no answer gains by being longer than `WORDS`. So an answer that
    repeats itself earns no more than an ordinary one.

    Args:
        prompts: not read.
        completions: answers, as texts or messages.
        subject: what each answer should be about, as prompts.py writes it.

    Returns:
        A reward between 0 and 1 for each answer.

    Example:
        >>> about_the_subject(["?"], ["The moon " * 60], subject=["the moon"])
        [1.0]
    """
    return [_score(text_of(answer), wanted) for answer, wanted in zip(completions, subject, strict=True)]


def _score(answer: str, subject: str) -> float:
    said = _words(answer)
    wanted = set(_words(subject)) - _STOP
    return (len(wanted & set(said)) / len(wanted) + min(1.0, len(said) / WORDS)) / 2


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())
