"""Count the words of a text, in scripts with and without spaces between words."""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
import regex

from ..languages import UNSPACED_SCRIPTS
from .offsets import code_points
from .scripts import every_character

_CHARACTERS_PER_WORD = 2  # in scripts without spaces


def count_words(text: str) -> float:
    """Count words that begin with a letter. In a script without spaces, two characters count as one word.

    Example:
        >>> count_words("Two words, 2 更多")
        3.0
    """
    points = code_points(text)
    letter, inside, unspaced = (table.take(points) for table in _tables())
    begins = np.count_nonzero(letter[1:] & ~inside[:-1]) + int(letter[:1].sum())
    return float(begins + np.count_nonzero(unspaced) / _CHARACTERS_PER_WORD)


@cache
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three tables over all Unicode characters: letters of spaced scripts, parts of words, letters of unspaced ones."""
    unspaced = "".join(rf"\p{{Script={script}}}" for script in UNSPACED_SCRIPTS)
    return _table(rf"[^\W\d_{unspaced}]+"), _table(rf"[^\W{unspaced}]+"), _table(rf"[{unspaced}]+")


def _table(pattern: str) -> np.ndarray:
    table = np.zeros(sys.maxunicode + 1, dtype=bool)
    for match in regex.finditer(pattern, every_character()):
        table[match.start() : match.end()] = True
    return table
