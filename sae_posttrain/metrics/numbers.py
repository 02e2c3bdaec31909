"""Texts with every number alike, for finding loops that count."""

from __future__ import annotations

import re
import sys
import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from .letters import weight
from .scripts import code_points

# Chosen so that no table of numbers in the corpora is a loop (benchmarks/repetition_detection.py).
REGULAR = 0.8  # share of a place's steps that are the usual one; less than all, since seconds go from 59 to 0
MIN_LETTERS = 3  # in a period; a row of numbers is a table
_CONTEXT = 3  # characters before a number that say whether numbers may count
_LONGEST_NUMBER = 18

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Folded:
    """A text in which every number is 0, however many digits it has.

    Args:
        whole: the text as it was.
        text: the folded text.
        numbers: start and end of each number in `whole`.
        places: the place of each number in `text`.
    """

    whole: str
    text: str
    numbers: Sequence[tuple[int, int]]
    places: Sequence[int]

    def place(self, place: int) -> int:
        """A place of the folded text in the text as it was; inside neither is there a number."""
        before = bisect_left(self.places, place)
        return place if before == 0 else place - self.places[before - 1] - 1 + self.numbers[before - 1][1]

    def counts(self, start: int, end: int, period: int) -> bool:
        """Whether the numbers of a loop in `text` go on by regular steps, some of them by more than 0.

        Other numbers are data: a table whose rows differ in nothing else repeats nothing.
        """
        letters = "".join(filter(str.isalpha, self.text[start : start + period]))
        if weight(letters) < MIN_LETTERS:
            return False
        slots: dict[int, list[int]] = {}
        for index in range(bisect_left(self.places, start), bisect_left(self.places, end)):
            first, last = self.numbers[index]
            if last - first > _LONGEST_NUMBER:
                return False
            if last < len(self.whole):  # else it may be cut
                slots.setdefault((self.places[index] - start) % period, []).append(int(self.whole[first:last]))
        steps = [_usual_step(values) for values in slots.values()]
        return None not in steps and any(steps)


def fold(text: str, repeats: int, *, at_end: bool = False) -> Folded | None:
    """The text with every number alike; None where its numbers surely do not count in a loop of so many periods.

    at_end: whether only a loop at the end matters.
    """
    if not _may_count(text, repeats, at_end):
        return None
    numbers = [match.span() for match in _NUMBER.finditer(text)]
    places, shorter = [], 0
    for start, end in numbers:
        places.append(start - shorter)
        shorter += end - start - 1
    return Folded(text, _NUMBER.sub("0", text), numbers, places)


def _may_count(text: str, repeats: int, at_end: bool) -> bool:
    """Whether what stands before some number, or before the last one, stands before as many others."""
    searched = max(0, len(text) - len(text) // repeats - _LONGEST_NUMBER) if at_end else 0
    is_digit = _digits().take(code_points(text[searched:]))
    starts = np.flatnonzero(is_digit[1:] & ~is_digit[:-1]) + 1 + searched
    if at_end:
        if not len(starts):
            return False
        last = int(starts[-1])
        return text.count(_before(text, last)) >= repeats - 1
    if len(starts) < repeats - 1:
        return False
    return max(Counter(_before(text, start) for start in starts.tolist()).values()) >= repeats - 1


def _before(text: str, place: int) -> str:
    """The character before a number, and those before it that surely are not of another number."""
    before = text[max(0, place - _CONTEXT) : place]
    return re.split(r"\d", before)[-1]


def _usual_step(values: Sequence[int]) -> int | None:
    """The step that nearly all of the numbers at one place of the period go on by; None where there is none."""
    if len(values) < 2:
        return 0
    steps = Counter(after - before for before, after in pairwise(values))
    step, count = steps.most_common(1)[0]
    return step if count >= REGULAR * (len(values) - 1) else None


@cache
def _digits() -> np.ndarray:
    """For every character, whether it is a digit."""
    return np.array([unicodedata.decimal(chr(point), None) is not None for point in range(sys.maxunicode + 1)])
