"""Map a text's words and punctuation marks, or token ids, to numbers, and measure the share of distinct n-grams."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import regex

from ..languages import UNSPACED_SCRIPTS
from .loops import as_sequence
from .scripts import code_points, every_character

_SPACE, _WORD, _SINGLE = 0, 1, 2


@dataclass(frozen=True)
class Units:
    """The units of a text or of token ids. Equal units have equal numbers.

    Args:
        numbers: number of each unit. Distinct units are numbered from 0, in order of first occurrence.
        distinct: the distinct units, indexed by their number.
        starts, ends: position of each unit in the sequence.
    """

    numbers: np.ndarray
    distinct: Sequence[Hashable]
    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def distinct_n(self, n: int) -> float:
        """Number of distinct n-grams over number of n-grams; 1 if there are fewer than n units."""
        if n == 1:
            return len(self.distinct) / len(self) if len(self) else 1.0
        repeated = self.repeated_fours if n == 4 else _repeated(grams(self.numbers, n))
        return 1 - float(repeated.mean()) if len(repeated) else 1.0

    @cached_property
    def repeated_fours(self) -> np.ndarray:
        """For each 4-gram, whether it occurred earlier."""
        return _repeated(grams(self.numbers, 4))

    @cached_property
    def words(self) -> Units:
        """The units without punctuation, in lower case, with every number as 0. Ids are unchanged."""
        if self.distinct and not isinstance(self.distinct[0], str):
            return self
        joined = "\n".join(map(str, self.distinct)).casefold()
        spelled = regex.sub(r"\d+", "0", joined).split("\n")
        alike: dict[str, int] = {}
        number = np.array(
            [alike.setdefault(word, len(alike)) if _is_word(word) else -1 for word in spelled], dtype=np.int64
        )
        numbers = number[self.numbers] if len(self) else self.numbers
        kept = numbers >= 0
        return Units(numbers[kept], list(alike), self.starts[kept], self.ends[kept])


def units_of(sequence: Sequence[Hashable]) -> Units:
    """The units of a sequence. A text's units are words and marks, or characters in scripts without spaces."""
    if isinstance(sequence, str):
        starts, ends = _borders(sequence)
        found: Sequence[Hashable] = [
            sequence[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        ]
    else:
        found = as_sequence(sequence)
        starts, ends = np.arange(len(found)), np.arange(1, len(found) + 1)
    distinct = list(dict.fromkeys(found))
    table = dict(zip(distinct, range(len(distinct)), strict=True))
    numbers = np.fromiter(map(table.__getitem__, found), dtype=np.int64, count=len(found))
    return Units(numbers, distinct, starts, ends)


def grams(numbers: np.ndarray, n: int) -> np.ndarray:
    """A number for each n-gram of `numbers`, equal for equal n-grams. Ranking at each step avoids overflow."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}.")
    found = numbers[: len(numbers) - n + 1] if n <= len(numbers) else numbers[:0]
    base = int(numbers.max()) + 1 if len(numbers) else 1
    largest = base
    for skip in range(1, n):
        if largest > 2**62 // base:
            found = np.unique(found, return_inverse=True)[1]
            largest = len(found)
        found = found * base + numbers[skip : skip + len(found)]
        largest *= base
    return found


def _repeated(found: np.ndarray) -> np.ndarray:
    order = found.argsort(kind="stable")
    repeated = np.zeros(len(found), dtype=bool)
    repeated[order[1:]] = found[order[1:]] == found[order[:-1]]
    return repeated


def rep_n(sequence: Sequence[Hashable], n: int) -> float:
    """The share of n-grams that occurred earlier in `sequence`; 0 if `sequence` is shorter than n.

    Units are token ids, or a text's words and punctuation marks. In scripts without spaces each character is a unit.
    Source: arXiv:1908.04319, seq-rep-n.
    """
    return 1 - distinct_n(sequence, n)


def distinct_n(sequence: Sequence[Hashable], n: int) -> float:
    """Number of distinct n-grams over number of n-grams, with the units of `rep_n`; 1 if it is shorter than n.

    Source: arXiv:1510.03055.
    """
    return units_of(sequence).distinct_n(n)


def _is_word(unit: str) -> bool:
    return unit.isalnum() or any(map(str.isalnum, unit))


def _borders(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The start and end of each unit of a text."""
    kinds = _kinds().take(code_points(text))
    word, single = kinds == _WORD, kinds == _SINGLE
    before, after = np.zeros_like(word), np.zeros_like(word)
    before[1:], after[:-1] = word[:-1], word[1:]
    return np.flatnonzero(single | word & ~before), np.flatnonzero(single | word & ~after) + 1


@cache
def _kinds() -> np.ndarray:
    """The kind of every Unicode character: part of a word, a unit of its own, or white space."""
    unspaced = "".join(rf"\p{{Script={script}}}" for script in UNSPACED_SCRIPTS)
    kinds = np.full(sys.maxunicode + 1, _SINGLE, dtype=np.uint8)
    for kind, pattern in ((_WORD, rf"[^\W{unspaced}]+"), (_SPACE, r"\s+")):
        for match in regex.finditer(pattern, every_character()):
            kinds[match.start() : match.end()] = kind
    return kinds
