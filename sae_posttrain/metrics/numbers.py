"""Replace all numbers of a text by the same digit, to find loops whose numbers count up or down."""

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

# Chosen so that no table of numbers in the test corpora is a loop (benchmarks/repetition_detection.py).
REGULAR = 0.8  # share of steps that must equal the usual step. It is below 1 because, for example, seconds wrap at 59
MIN_LETTERS = 3  # minimum number of letters in a period; a period with fewer is a row of a table
# Factors of a hash of the four characters before a number.
_PRIMES = np.array([1, 1_000_003, 998_244_353, 15_485_863])
_LONGEST_NUMBER = 18
_END = 6

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Folded:
    """A text in which every number, of any length, is replaced by a single 0.

    Args:
        whole: the original text.
        text: the folded text.
        numbers: start and end of each number in `whole`.
        places: position of each number in `text`.
    """

    whole: str
    text: str
    numbers: Sequence[tuple[int, int]]
    places: Sequence[int]

    def place(self, place: int) -> int:
        """Convert a position in the folded text to the position in the original text. It is not inside a number."""
        before = bisect_left(self.places, place)
        return place if before == 0 else place - self.places[before - 1] - 1 + self.numbers[before - 1][1]

    def counts(self, start: int, end: int, period: int) -> bool:
        """Whether the numbers of a loop in `text` change by regular steps, and at least one of them changes.

        Irregular numbers are data: a table whose rows differ only in such numbers is not a loop.
        """
        letters = "".join(filter(str.isalpha, self.text[start : start + period]))
        if weight(letters) < MIN_LETTERS:
            return False
        slots: dict[int, list[int]] = {}
        for index in range(bisect_left(self.places, start), bisect_left(self.places, end)):
            first, last = self.numbers[index]
            if last - first > _LONGEST_NUMBER:
                return False
            if last < len(self.whole):  # a number at the very end may be cut
                slots.setdefault((self.places[index] - start) % period, []).append(int(self.whole[first:last]))
        steps = [_usual_step(values) for values in slots.values()]
        return None not in steps and any(steps)


def fold(text: str) -> Folded:
    """Replace every number in the text by 0."""
    numbers = [match.span() for match in _NUMBER.finditer(text)]
    places, shorter = [], 0
    for start, end in numbers:
        places.append(start - shorter)
        shorter += end - start - 1
    return Folded(text, _NUMBER.sub("0", text), numbers, places)


def may_count_at_end(text: str, repeats: int, shortest: int) -> bool:
    """Whether a text may end in a loop whose numbers count: its folded end occurs twice, with a number in between.

    Args:
        text: any text.
        repeats: smallest number of whole periods of such a loop.
        shortest: smallest length of such a loop in the folded text.
    """
    window, end = text[-(len(text) // repeats + 8 * _LONGEST_NUMBER) :], text[-_END:]
    if window.find(end, 0, -1) < 0 and _NUMBER.search(end) is None:
        return False  # every period contains a number, followed by the same text
    last = _NUMBER.sub("0", window)
    shortest = max(shortest, repeats)
    block = last[-(shortest - shortest // repeats) :]
    again = last.rfind(block, 0, len(last) - 1)
    return again >= 0 and "0" in last[again + len(block) :]


def marks_of_numbers(text: str, least: int) -> list[int]:
    """A hash for each number, of the text before it and the distance to the next one. In a counting loop they repeat.

    The list is empty if there are fewer than `least` numbers.
    """
    points = code_points(text)
    digits = np.flatnonzero(_digits().take(points))
    if len(digits) < least:
        return []
    starts = digits[np.diff(digits, prepend=-2) > 1]
    ends = digits[np.diff(digits, append=len(points) + 1) > 1] + 1
    around = starts[:, None] - np.arange(1, len(_PRIMES) + 1)
    known = around >= np.concatenate([[0], ends[:-1]])[:, None]  # only characters after the previous number
    before = np.where(known, points[np.maximum(around, 0)], 0).astype(np.int64)
    found: list[int] = ((before * _PRIMES).sum(axis=1)[:-1] + 7919 * (starts[1:] - ends[:-1])).tolist()
    return found


def _usual_step(values: Sequence[int]) -> int | None:
    """The step by which nearly all numbers at one place of the period change; None if there is no such step."""
    if len(values) < 2:
        return 0
    steps = Counter(after - before for before, after in pairwise(values))
    step, count = steps.most_common(1)[0]
    return step if count >= REGULAR * (len(values) - 1) else None


@cache
def _digits() -> np.ndarray:
    """Whether each Unicode character is a digit, as an array that is indexed by code point."""
    return np.array([unicodedata.decimal(chr(point), None) is not None for point in range(sys.maxunicode + 1)])
