"""Rewards against loops and code-switching, for TRL's trainers: callables that can be pickled.

TRL's own `get_repetition_penalty_reward` (n-grams) and `get_soft_overlong_punishment` (length) go well with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..languages import SCRIPTS, get_language
from ..metrics.code_switching import unexpected_spans
from ..metrics.loops import MIN_REPEATS, find_loop
from ..metrics.thinking import TAGS, Thinking, as_thinking, said


class LoopPenalty:
    """Punishes completions that end in an endless loop, whatever repeats; 0 for all others.

    Args:
        penalty: what a loop is worth; at most 0.
        min_repeats, min_length: what counts as a loop, as in `find_loop`: tokens where the trainer gives token ids, as
            TRL's do, and characters otherwise.
        thinking: `both` looks at the end of the whole completion, `strip` at the end of the answer without its
            thinking, `only` at the end of the thinking; the last two read the text, so that lengths are in characters.
            A `Thinking` also says what the tags are.

    Example:
        >>> LoopPenalty()(["a"], ["yes, " * 30])
        [-1.0]
    """

    __name__ = "loop_penalty"

    def __init__(
        self,
        penalty: float = -1.0,
        *,
        min_repeats: int = MIN_REPEATS,
        min_length: int | None = None,
        thinking: str | Thinking = "both",
    ) -> None:
        self.penalty = _penalty(penalty)
        self.thinking = as_thinking(thinking)
        self.min_repeats = min_repeats
        self.min_length = min_length

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Any = None, **kwargs: Any
    ) -> list[float]:
        responses = completion_ids
        if completion_ids is None or self.thinking.part != "both":
            texts = (_text(completion, tags=self.thinking.tags) for completion in completions)
            responses = [self.thinking.read(text, joined=True) for text in texts]
        loops = [find_loop(row, min_repeats=self.min_repeats, min_length=self.min_length) for row in responses]
        return [0.0 if loop is None else self.penalty for loop in loops]


class CodeSwitchingPenalty:
    """Punishes completions with a word in a script that their language is not written in; 0 for all others.

    Words that stand in the prompt are quotations and cost nothing, nor do code, addresses and Latin terms, as in
    `unexpected_spans`. A dataset's `language` column says which language a completion should be in; where it is empty,
    and `language` is not given, the completion is not scored.

    Args:
        penalty: what a switch is worth; at most 0.
        language: of all completions, for datasets without such a column.
        to: languages or scripts; only words in these scripts count.
        thinking: `both` scores the thinking of a reasoning model and its answer alike, `strip` the answer alone, `only`
            the thinking alone. A `Thinking` also says what the tags are.
    """

    __name__ = "code_switching_penalty"

    def __init__(
        self,
        penalty: float = -1.0,
        *,
        language: str | None = None,
        to: str | Iterable[str] | None = None,
        thinking: str | Thinking = "both",
    ) -> None:
        self.penalty = _penalty(penalty)
        self.thinking = as_thinking(thinking)
        self.language = None if language is None else get_language(language).code
        self.scripts: frozenset[str] | None = None
        if to is not None:
            entries = [to] if isinstance(to, str) else list(to)
            written = ([entry] if entry in SCRIPTS else get_language(entry).scripts for entry in entries)
            self.scripts = frozenset(script for scripts in written for script in scripts)

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Any = None,
        language: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[float | None]:
        if language is None and self.language is None:
            raise ValueError(
                "Which language should completions be in? Give the dataset a column `language`, or the penalty "
                "language='…' for all of them."
            )
        codes = [self.language] * len(completions) if language is None else language
        return [
            self._score(_text(prompt), _text(completion, "assistant", self.thinking.tags), code or self.language)
            for prompt, completion, code in zip(prompts, completions, codes, strict=True)
        ]

    def _score(self, prompt: str, completion: str, code: str | None) -> float | None:
        if code is None:
            return None
        spans = unexpected_spans(
            self.thinking.read(completion),
            code,
            prompt=prompt,
            count_latin=self.scripts is not None and "Latn" in self.scripts,
        )
        switched = any(self.scripts is None or span.script in self.scripts for span in spans)
        return self.penalty if switched else 0.0


def _penalty(penalty: float) -> float:
    if not penalty <= 0:
        raise ValueError(f"a penalty must be 0 or below, got {penalty}")
    return penalty


def _text(turns: Any, role: str | None = None, tags: tuple[str, str] = TAGS) -> str:
    """A prompt or completion as text: as it is, or what its messages say; only those of `role`, if given."""
    if isinstance(turns, str):
        return turns
    return "\n".join(said(turn, tags) for turn in turns if role in (None, turn["role"]))
