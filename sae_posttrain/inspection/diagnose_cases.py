"""Bad cases: responses with a fault, where in each the fault stands, and how a fault is told in another response."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from transformers import PreTrainedTokenizerBase

from ..discovery.statistics import GroupSpan, TokenPassage
from ..discovery.tokens import cut
from ..metrics import SwitchCriteria, find_loop
from ..metrics.loops import DEFAULT_LOOPS, LoopSettings
from ..sampling import Prompt, encode_prompts

GOOD = "good"
"""The group of tokens that the faulty ones are compared with."""
Where = Literal["stretch", "before"]
_ENDED = {"stop": True, "length": False}


class Fault(Protocol):
    """A kind of fault: how it is told in a response."""

    @property
    def name(self) -> str:
        """What features of it stand for, such as `repetition` or `zh`."""

    def find(self, response: str, language: str | None, ended: bool | None) -> tuple[int, int] | None:
        """Where the fault begins and ends, in characters; None if there is none.

        Args:
            response: the text.
            language: what it should be in, if that is known.
            ended: whether the model ended it by itself, if that is known.
        """


@dataclass(frozen=True)
class LoopFault:
    """The response ends in an endless loop. What it says for the first time is not faulty, only what follows."""

    settings: LoopSettings = DEFAULT_LOOPS
    name: str = "repetition"

    def find(self, response: str, language: str | None, ended: bool | None) -> tuple[int, int] | None:
        loop = find_loop(response, self.settings, ended=ended)
        return None if loop is None else (loop.start + loop.period, loop.end)


@dataclass(frozen=True)
class SwitchFault:
    """The response switches to another language. The first switched words are faulty, up to the first other word.

    What follows may be in any language, and is a consequence of the switch.
    """

    criteria: SwitchCriteria = field(default_factory=SwitchCriteria)
    name: str = "switch"

    def find(self, response: str, language: str | None, ended: bool | None) -> tuple[int, int] | None:
        if not language:
            raise ValueError("A switch of language needs the language that the response should be in.")
        spans = self.criteria.find(response, language)
        if not spans:
            return None
        end = spans[0].end
        for span in spans[1:]:
            if any(map(str.isalpha, response[end : span.start])):
                break
            end = span.end
        return spans[0].start, end


@dataclass(frozen=True)
class TextFault:
    """The response contains some text, in upper or lower case."""

    text: str
    name: str = "fault"

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("The faulty text is empty.")

    def find(self, response: str, language: str | None, ended: bool | None) -> tuple[int, int] | None:
        found = re.search(re.escape(self.text), response, re.IGNORECASE)  # `lower` may change the length of a text
        return None if found is None else found.span()


@dataclass(frozen=True)
class Case:
    """A response to a prompt.

    Args:
        prompt: a text or messages; None for a response without one.
        response: the text.
        language: what the response should be in, if that is known.
        fault: where the fault begins and ends in the response, in characters; None for a good one.
    """

    prompt: Prompt | None
    response: str
    language: str | None = None
    fault: tuple[int, int] | None = None


@dataclass(frozen=True)
class EncodedCase:
    """A case's token ids: the prompt, then the response.

    Args:
        case: as it was given.
        ids: of prompt and response.
        start: where the response begins.
        fault: where the faulty tokens begin and end; None for a good case.
    """

    case: Case
    ids: tuple[int, ...]
    start: int
    fault: tuple[int, int] | None

    @property
    def prompt_ids(self) -> list[int]:
        return list(self.ids[: self.start])

    def passage(self, name: str, where: Where, *, compare: bool) -> TokenPassage:
        """What is read of it: the faulty tokens with the one before them, from which the first is predicted.

        Args:
            name: group of the faulty tokens.
            where: `stretch` for all of these, `before` for the one before alone.
            compare: whether the part of the response before the fault counts as good.
        """
        spans = []
        if self.fault is None:
            spans.append(_evenly(GOOD, self.start, len(self.ids)))
        else:
            first, last = self.fault
            end = first if where == "before" else last
            spans.append(_evenly(name, max(1, first - 1), end))
            if compare:
                spans.append(_evenly(GOOD, self.start, first - 1))
        return TokenPassage(self.ids, [span for span in spans if span.end > span.start])


def split_cases(rows: Iterable[Mapping[str, Any]], fault: Fault) -> tuple[list[Case], list[Case]]:
    """The responses with the fault, and those without.

    Args:
        rows: with `response`, and optionally `prompt`, `language` and `finish_reason`, such as `measure … --output`
            writes them.
        fault: what to look for.

    Example:
        >>> bad, good = split_cases([{"response": "Oh no."}, {"response": "Fine."}], TextFault("oh no"))
        >>> bad[0].fault
        (0, 5)
    """
    bad: list[Case] = []
    good: list[Case] = []
    for row in rows:
        language = row.get("language") or None
        ended = row["ended"] if isinstance(row.get("ended"), bool) else _ENDED.get(str(row.get("finish_reason")))
        found = fault.find(row["response"], language, ended)
        (good if found is None else bad).append(Case(row.get("prompt"), row["response"], language, found))
    return bad, good


def encode_cases(
    tokenizer: PreTrainedTokenizerBase, cases: Sequence[Case], *, chat: bool, max_length: int
) -> list[EncodedCase]:
    """Tokenize cases; those whose fault begins after `max_length` tokens, or that have no token, are left out.

    The text is tokenized again, so the tokens may differ from those that were sampled.
    """
    found = []
    for case in cases:
        head = encode_prompts(tokenizer, [case.prompt], chat)[0] if case.prompt else list(tokenizer("")["input_ids"])
        response = cut(tokenizer, case.response)
        ids = tuple([*head, *response.ids][:max_length])
        fault = None
        if case.fault is not None:
            begin, end = case.fault
            touched = [n for n, (first, last) in enumerate(response.places) if last > begin and first < end]
            if not touched or len(head) + touched[0] >= len(ids):
                continue
            fault = len(head) + touched[0], min(len(ids), len(head) + touched[-1] + 1)
        if len(ids) > max(1, len(head)):
            found.append(EncodedCase(case, ids, len(head), fault))
    return found


def _evenly(group: str, start: int, end: int) -> GroupSpan:
    """A span whose tokens weigh as much together as those of any other, however long it is; never the first token."""
    start = max(1, start)
    return GroupSpan(group, start, end, 1 / max(1, end - start))
