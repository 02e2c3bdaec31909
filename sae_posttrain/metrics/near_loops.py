"""Find near-loops: ends of texts that repeat themselves except for punctuation, numbers, or a few words."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from .letters import weight
from .loops import DEFAULT_LOOPS, LoopSettings
from .units import Units, grams, units_of

# Chosen by measurement (benchmarks/repetition_detection.py). docs/measuring.md says what is found in ordinary text.
AGREEMENT = 0.8  # smallest share of a near-loop's words that occurred before in the same order
_GRAM = 3  # number of words that must occur together again
_TIMES = 2  # a near-loop must be this many times as long as an exact loop
_SPREAD = 0.25  # largest deviation of a distance from the median distance, as a share of the median
_WINDOW = 64  # number of words and marks at the end that are checked first; most texts repeat nothing there
_RECENT = 0.1  # smallest share of the 4-grams in this window, with punctuation, that must have occurred before
_LAST = 6  # number of words at the very end, most of which must have occurred before too


@dataclass(frozen=True)
class NearLoop:
    """A near-loop: sequence[start:end] repeats itself with small changes.

    Args:
        start, end: positions in characters of a text, or in ids.
        period: median distance between repeats, in words of a text (characters in scripts without spaces) or in ids.
        agreement: share of the words or ids that occurred shortly before, together with their neighbours.
    """

    start: int
    end: int
    period: int
    agreement: float


def find_near_loop(
    sequence: Sequence[Hashable] | Units,
    settings: LoopSettings = DEFAULT_LOOPS,
    *,
    text: str | None = None,
    ended: bool | None = None,
) -> NearLoop | None:
    """The longest near-loop that a response ends in, if any.

    Punctuation, case and numbers are ignored. At least 80% of the near-loop's words are in groups of three words that
    occurred before in the same order, most of them at about the same distance; so are most of its last 6 words. The
    near-loop is at least `min_repeats` times as long as that distance, and twice as long as a loop has to be. Most long
    loops are near-loops too.

    Args:
        sequence: a text or token ids; or units, with the `text` that they were made from.
        settings: what counts as a loop.
        text: the text, if `sequence` contains its units.
        ended: whether the model ended the response by itself, as in `find_loop`.

    Returns:
        The start, end and period of the near-loop; None if there is none.

    Example:
        >>> find_near_loop("".join(f"And then we went on{mark} " for mark in ".!?;:" * 5)).period
        5

    Source: our own definition.
    """
    if ended:
        return None
    if not isinstance(sequence, Units):
        text = sequence if isinstance(sequence, str) else None
    units = sequence if isinstance(sequence, Units) else units_of(sequence)
    recent = units.repeated_fours[-_WINDOW:]
    if not len(recent) or recent.mean() < _RECENT:
        return None
    words = units.words
    distances = _distances(words.numbers, len(words) // settings.min_repeats)
    again = _standing_in(distances > 0, len(words))
    if again[-_LAST:].sum() * 2 <= min(_LAST, len(words)):
        return None
    # One new word weighs as much as four repeated words: a sum above 0 is an agreement of more than 80%.
    worth = np.where(again[::-1], 1 - AGREEMENT, -AGREEMENT).cumsum()
    length = int(worth.argmax()) + 1
    period = _period(distances[len(words) - length :])
    length += period  # the first period repeats nothing, so it was not counted
    if period == 0 or length > len(words) or length < settings.min_repeats * period:
        return None
    start, end = int(words.starts[-length]), int(words.ends[-1])
    if (end - start if text is None else weight(text[start:end])) < _TIMES * settings.length_of(text or []):
        return None
    return NearLoop(start, end, period, float(again[period - length :].mean()))


def _distances(numbers: np.ndarray, longest: int) -> np.ndarray:
    """The distance from each group of words to its previous occurrence; 0 if there is none within `longest`."""
    threes = grams(numbers, _GRAM)
    order = threes.argsort(kind="stable")
    again = np.flatnonzero(threes[order][1:] == threes[order][:-1])
    distances = np.zeros(len(threes), dtype=np.int64)
    distances[order[again + 1]] = order[again + 1] - order[again]
    distances[distances > longest] = 0
    return distances


def _period(distances: np.ndarray) -> int:
    """The median distance if most distances are close to it; 0 if they vary widely, as in lists of similar items."""
    distances = distances[distances > 0]
    if not len(distances):
        return 0
    middle = float(np.median(distances))
    alike = np.abs(distances - middle) <= _SPREAD * middle
    return int(middle) if 2 * alike.sum() > len(distances) else 0


def _standing_in(groups: np.ndarray, words: int) -> np.ndarray:
    """Whether each word belongs to one of the groups, which are marked by their first word."""
    inside = np.zeros(words, dtype=bool)
    for skip in range(_GRAM if len(groups) else 0):
        inside[skip : skip + len(groups)] |= groups
    return inside
