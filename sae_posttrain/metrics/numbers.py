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
# For the four characters before a number.
_PRIMES = np.array([1, 1_000_003, 998_244_353, 15_485_863])
_LONGEST_NUMBER = 18
_END = 6

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


def fold(text: str) -> Folded:
    """The text with every number alike."""
    numbers = [match.span() for match in _NUMBER.finditer(text)]
    places, shorter = [], 0
    for start, end in numbers:
        places.append(start - shorter)
        shorter += end - start - 1
    return Folded(text, _NUMBER.sub("0", text), numbers, places)


def may_count_at_end(text: str, repeats: int, shortest: int) -> bool:
    """Whether a text may end in a loop whose numbers count: its folded end stands there twice, a number in between.

    Args:
        text: any text.
        repeats: whole periods that such a loop has.
        shortest: its least length in the folded text.
    """
    window, end = text[-(len(text) // repeats + 8 * _LONGEST_NUMBER) :], text[-_END:]
    if window.find(end, 0, -1) < 0 and _NUMBER.search(end) is None:
        return False  # every period has a number, and the same text behind it
    last = _NUMBER.sub("0", window)
    shortest = max(shortest, repeats)
    block = last[-(shortest - shortest // repeats) :]
    again = last.rfind(block, 0, len(last) - 1)
    return again >= 0 and "0" in last[again + len(block) :]


def marks_of_numbers(text: str, least: int) -> list[int]:
    """For each number a mark of what stands before it and of how far the next one is; in loops that count they loop.

    Empty where there are fewer than `least` numbers.
    """
    points = code_points(text)
    digits = np.flatnonzero(_digits().take(points))
    if len(digits) < least:
        return []
    starts = digits[np.diff(digits, prepend=-2) > 1]
    ends = digits[np.diff(digits, append=len(points) + 1) > 1] + 1
    around = starts[:, None] - np.arange(1, len(_PRIMES) + 1)
    known = around >= np.concatenate([[0], ends[:-1]])[:, None]  # of the text behind the number before
    before = np.where(known, points[np.maximum(around, 0)], 0).astype(np.int64)
    found: list[int] = ((before * _PRIMES).sum(axis=1)[:-1] + 7919 * (starts[1:] - ends[:-1])).tolist()
    return found


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
