"""The rates of a set of answers, under the names that experiment trackers show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..artefacts import CODE_SWITCHING, EVAL, EVAL_THINKING, REPETITION
from ..metrics import LoopSettings, Thinking, code_switching_rate, repetition_rate
from ..metrics.thinking import Part


@dataclass(frozen=True)
class Answer:
    """A model's answer and what is needed to measure it.

    Args:
        text: the whole answer, with its thinking.
        ended: whether the model ended it by itself; None if this is not known.
        language: code of the language that it should be in; None if switches are not measured.
        allowed: codes of other languages that it may use too.
        quoted: a text, such as the prompt, whose words do not count as switches.
    """

    text: str
    ended: bool | None
    language: str | None
    allowed: Sequence[str]
    quoted: str = ""


def rates(
    answers: Sequence[Answer], thinking: Thinking, loop_settings: LoopSettings, counting: Mapping[str, Any]
) -> dict[str, float]:
    """The metrics of a set of answers, and of their thinking if some answers have thinking.

    Args:
        answers: whole answers.
        thinking: which parts are measured. With `both`, the names of the thinking's metrics begin with
            `eval_thinking_`.
        loop_settings: what counts as a loop.
        counting: options of `code_switching_rate`.

    Returns:
        name → value, as they are logged.
    """
    splits = [(answer, thinking.split(answer.text)) for answer in answers]
    replies = [_Read(answer, split.answer, answer.ended) for answer, split in splits]
    thoughts = [  # thinking that is followed by an answer has ended, even if the answer was cut
        _Read(answer, split.thinking, True if split.thinking_is_closed else answer.ended)
        for answer, split in splits
        if split.has_thinking
    ]
    if thinking.part == "only":
        return _rates(thoughts, EVAL, loop_settings, counting)
    logs = _rates(replies, EVAL, loop_settings, counting)
    if thinking.part == "both" and thoughts:
        logs |= _rates(thoughts, EVAL_THINKING, loop_settings, counting)
    if thoughts:
        logs[f"{EVAL}unfinished_thinking"] = sum(split.is_unfinished for _, split in splits)
    return logs


class _Read(NamedTuple):
    answer: Answer
    part: Part
    ended: bool | None


def _rates(
    read: Sequence[_Read], prefix: str, loop_settings: LoopSettings, counting: Mapping[str, Any]
) -> dict[str, float]:
    logs: dict[str, float] = {}
    if not read:
        return {f"{prefix}responses": 0}
    codes = [one.answer.language for one in read if one.answer.language is not None]
    if len(codes) == len(read):
        texts, allowed = [one.part.blanked for one in read], [one.answer.allowed for one in read]
        quoted = [one.answer.quoted for one in read]
        switched = code_switching_rate(texts, codes, prompts=quoted, allowed_languages=allowed, **counting)
        logs = {
            CODE_SWITCHING: switched.rate,
            f"{CODE_SWITCHING}_count": switched.overall.hits,
            f"{CODE_SWITCHING}_responses": switched.overall.total,
            f"{CODE_SWITCHING}_words": switched.words,
        }
    looped = repetition_rate([one.part.text for one in read], loop_settings, ended=[one.ended for one in read])
    logs |= {REPETITION: looped.rate, f"{REPETITION}_count": looped.loops.hits, "responses": len(read)}
    logs |= {"near_loops": looped.near_looped / len(read), "looped_share": looped.looped_share}
    return {prefix + name: value for name, value in logs.items()}
