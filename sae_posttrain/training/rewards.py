"""Reward functions that penalise loops and code-switching, for TRL's trainers. They can be pickled.

They can be combined with TRL's `get_repetition_penalty_reward` (n-grams) and `get_soft_overlong_punishment` (length).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ..languages import get_language
from ..metrics.loops import DEFAULT_LOOPS, LoopSettings, find_loop, looped_share
from ..metrics.messages import text_of
from ..metrics.near_loops import find_near_loop
from ..metrics.switches import ALLOWED_COLUMNS, SwitchCriteria, allowed_in
from ..metrics.thinking import Thinking, as_thinking


class LoopPenalty:
    """A penalty for completions that end in an endless loop, as `measure repetition` counts them; 0 for all others.

    A completion that the model ended by itself is not an endless loop. The model ended it if its last token is an
    end-of-sequence token of the trainer, or one of `eos_token_id`. All other completions count as cut.

    Args:
        penalty: reward of a completion that ends in a loop; at most 0.
        loop_settings: what counts as a loop.
        unit: `text` reads the text, like `measure` and `RateEvaluationCallback`, so that all three agree. `tokens`
            reads the trainer's token ids, which must repeat exactly, and uses `loop_settings.min_tokens`.
        graded: whether the penalty is multiplied by the share of the completion inside loops. Then loops before the end
            count too. Default: False.
        near_loops: whether near-loops at the end are penalised too (see `find_near_loop`).
        eos_token_id: end-of-sequence token or tokens. Default: those of the TRL trainer that calls the reward.
        thinking: `both` checks the end of the whole completion, `strip` the end of the answer without its thinking,
            `only` the end of the thinking. Thinking that is followed by an answer is not an endless loop. `strip` and
            `only` read the text. Give a `Thinking` for other tags.

    Raises: ValueError: a penalty above 0, an unknown unit or an unknown part of thinking.

    Example:
        >>> LoopPenalty()(["a"], ["yes, " * 30])
        [-1.0]

    Source: our own; a loop is defined as in `find_loop`.
    """

    __name__ = "loop_penalty"

    def __init__(
        self,
        penalty: float = -1.0,
        *,
        loop_settings: LoopSettings = DEFAULT_LOOPS,
        unit: Literal["text", "tokens"] = "text",
        graded: bool = False,
        near_loops: bool = False,
        eos_token_id: int | Sequence[int] | None = None,
        thinking: str | Thinking = "both",
    ) -> None:
        self.penalty = _penalty(penalty)
        self.thinking = as_thinking(thinking)
        if unit not in ("text", "tokens"):
            raise ValueError(f"unit must be 'text' or 'tokens', got {unit!r}.")
        self.loop_settings, self.unit, self.graded, self.near_loops = loop_settings, unit, graded, near_loops
        ends = [eos_token_id] if isinstance(eos_token_id, int) else eos_token_id
        self.eos_token_ids = None if ends is None else frozenset(ends)

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> list[float]:
        ends = self.eos_token_ids or _trainers_ends(kwargs)
        ended: list[bool | None] = [None] * len(completions)
        if completion_ids is not None and ends:
            ended = [bool(len(ids)) and int(ids[-1]) in ends for ids in completion_ids]
        if self.unit == "tokens" and completion_ids is not None and self.thinking.part == "both":
            return [self._score(ids, end) for ids, end in zip(completion_ids, ended, strict=True)]
        texts = [text_of(completion, "assistant", self.thinking.tags) for completion in completions]
        return [self._score(*self._read(text, end)) for text, end in zip(texts, ended, strict=True)]

    def _read(self, text: str, ended: bool | None) -> tuple[str, bool | None]:
        """The part of a text that `thinking` selects, and whether the model ended this part."""
        if self.thinking.part == "only":
            ended = True if self.thinking.split(text).thinking_is_closed else ended
        return self.thinking.read(text, joined=True) if self.thinking.part != "both" else text, ended

    def _score(self, response: str | Sequence[int], ended: bool | None) -> float:
        if self.graded:
            share = looped_share(response, self.loop_settings, ended=ended)
        else:
            share = float(find_loop(response, self.loop_settings, ended=ended) is not None)
        if self.near_loops and share < 1:
            near = find_near_loop(response, self.loop_settings, ended=ended)
            if near is not None:
                share = max(share, (near.end - near.start) / len(response)) if self.graded else 1.0
        return self.penalty * share if share else 0.0


def _trainers_ends(kwargs: Mapping[str, Any]) -> frozenset[int]:
    """The end-of-sequence tokens of the TRL trainer that calls a reward; empty if no trainer does.

    TRL does not pass to a reward how a completion ended. But it passes the trainer's logging methods, which are bound
    to the trainer.
    """
    trainer = getattr(kwargs.get("log_metric") or kwargs.get("log_extra"), "__self__", None)
    ends = getattr(trainer, "eos_token_ids", None)
    if ends is None:  # TRL before 1.16 uses only the tokenizer's
        processing = getattr(trainer, "processing_class", None)
        ends = [getattr(getattr(processing, "tokenizer", processing), "eos_token_id", None)]
    return frozenset(end for end in ends if end is not None)


class CodeSwitchingPenalty:
    """A penalty for completions with a word in a script that their language is not written in; 0 for all others.

    The same words count as in `code_switching_rate` with the same options. Words that occur in the prompt are
    quotations and are not penalised. The dataset's column `language` says which language a completion should be in. If
    it is empty and `language` is not given, the completion is not scored. A column `allowed` (or `languages`) names
    other languages that a completion may use, for prompts such as "translate into Chinese". It holds a list, or a text
    such as "zh, ja".

    Args:
        penalty: reward of a completion with a switch; at most 0. Default: -1.
        language: code of the language of all completions, for datasets without the column.
        graded: whether the penalty is multiplied by the share of the completion's words that are switches. One word
            then costs little, and a completion wholly in another language costs the full penalty.
        ignore_prompt: whether words that occur in the prompt are not penalised. Default: True.
        thinking: `both` scores the thinking of a reasoning model and its answer, `strip` only the answer, `only` only
            the thinking. Give a `Thinking` for other tags.
        criteria: the options of `SwitchCriteria` as keyword arguments: to, phrases, ignore_code, ignore_urls,
            ignore_glosses, count_latin, han_without_kana, allowed.

    Raises:
        ValueError: an unknown language, an empty `to`, or a penalty above 0. When called: the language is not known.
        TypeError: an unknown option.

    Example:
        >>> CodeSwitchingPenalty(graded=True)(["?"], ["All is 好的 now"], language=["en"])
        [-0.25]

    Source: with `graded`, the language consistency reward of DeepSeek-R1, arXiv:2501.12948, section 2.3.2.
    """

    __name__ = "code_switching_penalty"

    def __init__(
        self,
        penalty: float = -1.0,
        *,
        language: str | None = None,
        graded: bool = False,
        ignore_prompt: bool = True,
        thinking: str | Thinking = "both",
        **criteria: Any,
    ) -> None:
        self.penalty = _penalty(penalty)
        self.language = None if language is None else get_language(language).code
        self.thinking = as_thinking(thinking)
        self.graded = graded
        self.ignore_prompt = ignore_prompt
        self.criteria = SwitchCriteria(**criteria)

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
                "The language of the completions is not known. Add a `language` column to the dataset, or pass "
                "language='…' to CodeSwitchingPenalty."
            )
        codes = [self.language] * len(completions) if language is None else language
        columns = {name: kwargs[name] for name in ALLOWED_COLUMNS if kwargs.get(name) is not None}
        rows = [{name: column[number] for name, column in columns.items()} for number in range(len(completions))]
        return [
            self._score(text_of(prompt), self._read(completion), code or self.language, allowed_in(row))
            for prompt, completion, code, row in zip(prompts, completions, codes, rows, strict=True)
        ]

    def _read(self, completion: Any) -> str:
        return self.thinking.read(text_of(completion, "assistant", self.thinking.tags))

    def _score(self, prompt: str, completion: str, code: str | None, allowed: Sequence[str]) -> float | None:
        if code is None:
            return None
        quoted = prompt if self.ignore_prompt else None
        spans = self.criteria.find(completion, code, prompt=quoted, allowed_languages=allowed)
        share = self.criteria.word_share(completion, spans) if self.graded else 1.0
        return self.penalty * share if spans else 0.0


def _penalty(penalty: float) -> float:
    if not penalty <= 0:
        raise ValueError(f"penalty must be 0 or below, got {penalty}.")
    return penalty
