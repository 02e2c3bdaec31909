"""Separate the thinking of reasoning models from the answer that a user reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TAGS = ("<think>", "</think>")
"""The opening and closing tags of thinking in Qwen3, DeepSeek-R1 and most other reasoning models."""

CHOICES = ("both", "strip", "only")
_BLANKED = re.compile(r"[^\n]")


@dataclass(frozen=True)
class Part:
    """A part of a text, as one or more stretches in order that do not overlap."""

    whole: str
    stretches: tuple[tuple[int, int], ...]

    @property
    def text(self) -> str:
        """The stretches joined together, for measures that do not need positions."""
        return "".join(self.whole[start:end] for start, end in self.stretches)

    @property
    def blanked(self) -> str:
        """The whole text, with spaces in place of everything outside the part, so that positions and lines are kept."""
        kept, last = [], 0
        for start, end in self.stretches:
            kept += [_BLANKED.sub(" ", self.whole[last:start]), self.whole[start:end]]
            last = end
        return "".join([*kept, _BLANKED.sub(" ", self.whole[last:])])

    def place(self, position: int) -> int:
        """Convert a position in `text` to one in the whole text. The end of `text` is the end of the last stretch."""
        for start, end in self.stretches:
            if position < end - start:
                return start + position
            position -= end - start
        return self.stretches[-1][1] + position if self.stretches else position


@dataclass(frozen=True)
class Split:
    """A text split into thinking and answer. The tags belong to neither part."""

    thinking: Part
    answer: Part

    @property
    def has_thinking(self) -> bool:
        return bool(self.thinking.text.strip())

    @property
    def thinking_is_closed(self) -> bool:
        """Whether the thinking ends with a closing tag."""
        stretches = self.thinking.stretches
        return bool(stretches) and stretches[-1][1] < len(self.thinking.whole)

    @property
    def is_unfinished(self) -> bool:
        """Whether there is thinking but no answer, because the token limit was reached first, for example."""
        return self.has_thinking and not self.answer.text.strip()


@dataclass(frozen=True)
class Thinking:
    """How thinking is separated from the answer, and which part counts.

    Args:
        part: `strip`: only the answer counts; `only`: only the thinking counts; `both`: both count.
        tags: the tags that open and close thinking.
        opened: whether the prompt has already opened the thinking, as some chat templates do. A text without a closing
            tag is then all thinking. The text before a closing tag is thinking in any case.

    Raises: ValueError: an unknown part, or tags that are empty or the same.

    Example:
        >>> Thinking("strip").read("<think>2 + 2</think>4").strip()
        '4'

    Source: the tags are those of DeepSeek-R1, arXiv:2501.12948, and Qwen3.
    """

    part: str = "both"
    tags: tuple[str, str] = TAGS
    opened: bool = False

    def __post_init__(self) -> None:
        if self.part not in CHOICES:
            raise ValueError(f"thinking must be one of {', '.join(CHOICES)}, got {self.part!r}.")
        if isinstance(self.tags, str) or len(self.tags) != 2 or not all(self.tags) or self.tags[0] == self.tags[1]:
            raise ValueError(
                f"expected two different tags, one that opens and one that closes thinking, got {self.tags!r}."
            )

    def split(self, text: str) -> Split:
        """The thinking and the answer of a text."""
        return split_thinking(text, self.tags, opened=self.opened)

    def read(self, text: str, *, joined: bool = False) -> str:
        """The text that counts. The rest is replaced by spaces, or removed with `joined`. Tags never count."""
        found = self.split(text)
        stretches = {
            "strip": found.answer.stretches,
            "only": found.thinking.stretches,
            "both": tuple(sorted([*found.answer.stretches, *found.thinking.stretches])),
        }[self.part]
        part = Part(text, stretches)
        return part.text if joined else part.blanked


def as_thinking(choice: str | Thinking) -> Thinking:
    """The settings for a choice such as "strip". Raises: ValueError: an unknown choice."""
    return choice if isinstance(choice, Thinking) else Thinking(choice)


def split_thinking(text: str, tags: tuple[str, str] = TAGS, *, opened: bool = False) -> Split:
    """Separate a text's thinking from its answer.

    After an opening tag that is never closed, everything is thinking. Before a closing tag that was never opened,
    everything is thinking: the prompt had opened it. Tags in backticks, and in fences of the answer, are ignored.

    Args:
        text: an answer of a reasoning model.
        tags: the tags that open and close thinking.
        opened: whether the prompt has already opened the thinking.

    Returns: both parts, as positions in the text. Without tags everything is answer, or with `opened`, thinking.

    Example:
        >>> split_thinking("<think>Let me see.</think>It is 4.").answer.text
        'It is 4.'

    Source: the tags are those of DeepSeek-R1, arXiv:2501.12948, and Qwen3.
    """
    begin, end = tags
    found = [match for match in _tag(begin, end).finditer(text) if match["tag"]]
    inside = opened or (bool(found) and found[0]["tag"] == end)
    stretches: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    last = counted = fences = 0
    for match in found:
        if not inside:
            fences, counted = fences + len(_FENCE.findall(text, counted, match.start())), match.start()
            if fences % 2:
                continue
        stretches[inside].append((last, match.start()))
        inside, last = match["tag"] == begin, match.end()
        counted = last
    stretches[inside].append((last, len(text)))
    answer, thinking = (tuple((start, stop) for start, stop in part if start < stop) for part in stretches)
    return Split(Part(text, thinking), Part(text, answer))


def opens_thinking(tokenizer: Any, opening: str = TAGS[0], template: Mapping[str, Any] | None = None) -> bool:
    """Whether the tokenizer's chat template ends prompts with an opening tag, so that answers begin with thinking.

    Args:
        tokenizer: the model's.
        opening: the tag.
        template: values that the chat template reads, such as `enable_thinking`.
    """
    if not getattr(tokenizer, "chat_template", None):
        return False
    turn = [{"role": "user", "content": "a"}]
    prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True, **(template or {}))
    return str(prompt).rstrip().endswith(opening)


_FENCE = re.compile(r"(?m)^[ \t]*(?:```|~~~)")


def _tag(begin: str, end: str) -> re.Pattern[str]:
    tag = f"{re.escape(begin)}|{re.escape(end)}"
    return re.compile(f"`(?:{tag})`|(?P<tag>{tag})")
