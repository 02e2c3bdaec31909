"""Find loops: places where a text, or a sequence of token ids, repeats itself, at its end or anywhere."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .letters import heaviest, is_mark, weight, without_cut, without_tail
from .numbers import Folded, fold, marks_of_numbers, may_count_at_end
from .scripts import code_points
from .search import Loop, all_loops, as_text, loop_at_end

# Chosen by measurement (benchmarks/repetition_detection.py); no source publishes its own.
MIN_REPEATS = 4
MIN_LENGTH = 100
MIN_TOKENS = 50


@dataclass(frozen=True)
class LoopSettings:
    """What counts as a loop. The metric, the rewards, the callback, calibration and discovery use this setting.

    Args:
        min_repeats: smallest number of whole periods of a loop; twice as many if the numbers in it count up or down.
        min_length: smallest length of a loop in a text, in letters: a Chinese character counts as 3, a kana or a Korean
            syllable as 2, every other character as 1.
        min_tokens: smallest length of a loop in token ids.
        fold_digits: whether a text is a loop if it repeats except for numbers that count up or down ("step 99, step
            100, …").

    Raises: ValueError for fewer than 3 repeats, since text that occurs twice may be a quotation, or a length below 1.

    Example:
        >>> find_loop("one and two\\n" * 6, LoopSettings(min_length=60)) is None
        False

    Source: our own; the defaults were chosen by measurement (benchmarks/repetition_detection.py).
    """

    min_repeats: int = MIN_REPEATS
    min_length: int = MIN_LENGTH
    min_tokens: int = MIN_TOKENS
    fold_digits: bool = True

    def __post_init__(self) -> None:
        if self.min_repeats < 3:
            raise ValueError(
                f"min_repeats must be at least 3, got {self.min_repeats}: text that occurs twice may be a quotation."
            )
        for name in ("min_length", "min_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")

    def length_of(self, sequence: Sequence[Hashable]) -> int:
        """The minimum length that applies to a sequence: in letters for a text, in tokens for ids."""
        return self.min_length if isinstance(sequence, str) else self.min_tokens

    @property
    def counting_repeats(self) -> int:
        """Smallest number of whole periods of a loop whose numbers count up or down."""
        return 2 * self.min_repeats


DEFAULT_LOOPS = LoopSettings()
EXACT_LOOPS = LoopSettings(fold_digits=False)
"""The default for token ids, as in training. Token ids have to repeat exactly."""


def find_loop(
    sequence: Sequence[Hashable], settings: LoopSettings = DEFAULT_LOOPS, *, ended: bool | None = None
) -> Loop | None:
    """The longest endless loop that `sequence` ends in, if any. It may have any period and be cut off anywhere.

    The text of a loop repeats exactly, except for numbers that count up or down (see `LoopSettings.fold_digits`).
    Characters after it are ignored if they are not text: white space, punctuation, U+FFFD in place of a cut character,
    and end markers such as <|im_end|>. Takes linear time.

    Args:
        sequence: a text, or token ids without padding. A text is compared by characters, so languages without spaces
            are supported. Token ids have to repeat exactly. Ids that keep their end-of-sequence token do not end in a
            loop.
        settings: what counts as a loop.
        ended: whether the model ended the response by itself. If it did, the repetition is not an endless loop. None
            means not known; the response is then treated as cut at the token limit.

    Returns: the start, end and period of the loop, in characters or tokens; None if there is no loop.

    Example:
        >>> find_loop("Once. " + "Again and again. " * 10)
        Loop(start=4, end=176, period=17)

    Source: our own definition. arXiv:2605.11887 measures endless repetition, but does not publish its detector.
    """
    if ended:
        return None
    if not isinstance(sequence, str):
        return loop_at_end(as_text(as_sequence(sequence)), settings.min_repeats, settings.min_tokens)
    cut, short = without_cut(sequence), without_tail(sequence)
    for text in dict.fromkeys((sequence, cut, short)):
        found = _at_end(text, settings)
        # White space or dashes before a full stop are layout.
        if found is not None and not (text is short and len(short) < len(cut) and is_layout(text, found)):
            return found
    return None


def find_loops(sequence: Sequence[Hashable], settings: LoopSettings = DEFAULT_LOOPS) -> list[Loop]:
    """All loops of `sequence`, in order. Each is extended as far as possible. Loops of different periods may overlap.

    What counts as a loop is the same as in `find_loop`. Takes n log n time.
    """
    if not isinstance(sequence, str):
        return all_loops(as_text(as_sequence(sequence)), settings.min_repeats, settings.min_tokens)
    least = settings.min_length
    shortest = -(-least // heaviest(sequence))
    if shortest < least and _has_short_loops(sequence, settings, shortest):
        loops = [
            loop for loop in all_loops(sequence, settings.min_repeats, shortest) if _heavy_enough(sequence, loop, least)
        ]
    else:
        loops = all_loops(sequence, settings.min_repeats, least)
    if settings.fold_digits and _numbers_loop(sequence, settings):
        folded = fold(sequence)
        counting = all_loops(folded.text, settings.counting_repeats, _shortest_folded(sequence, settings))
        loops += [loop for one in counting if (loop := _unfolded(folded, one, settings)) and loop not in loops]
    return sorted(loops, key=lambda loop: (loop.start, loop.end))


def looped_share(
    sequence: Sequence[Hashable], settings: LoopSettings = DEFAULT_LOOPS, *, ended: bool | None = None
) -> float:
    """The share of `sequence` that is inside loops, at its end or elsewhere, without layout; 0 if it is empty.

    A loop at the end of a response that the model ended by itself (see `find_loop`) does not count. A loop that the
    model left before it continued does count.
    """
    at_end, left = split_loops(sequence, find_loops(sequence, settings))
    loops = left if ended else sorted([*at_end, *left], key=lambda loop: loop.start)
    return covered(loops) / len(sequence) if loops else 0.0


def split_loops(sequence: Sequence[Hashable], loops: Sequence[Loop]) -> tuple[list[Loop], list[Loop]]:
    """Split loops into those that reach the end of a response and those that the response left again.

    Loops of layout are left out. Layout is white space or one repeated mark, such as a table's rule or empty cells.
    """
    if not loops:
        return [], []
    if not isinstance(sequence, str):
        return [one for one in loops if one.end == len(sequence)], [one for one in loops if one.end < len(sequence)]
    end, tail = len(without_cut(sequence)), len(without_tail(sequence))
    at_end = [one for one in loops if one.end >= (end if is_layout(sequence, one) else tail)]
    return at_end, [one for one in loops if one not in at_end and not is_layout(sequence, one)]


def is_layout(text: str, loop: Loop) -> bool:
    """Whether a loop consists of white space, or of one punctuation mark with or without white space around it."""
    return len(set(text[loop.start : loop.start + loop.period].split())) <= 1 and all(
        is_mark(character) for character in text[loop.start : loop.start + loop.period]
    )


class Stretch(Protocol):
    """A part of a sequence, such as a loop or a near-loop."""

    @property
    def start(self) -> int: ...

    @property
    def end(self) -> int: ...


def covered(loops: Sequence[Stretch]) -> int:
    """The number of elements of a sequence that are inside `loops`, which must be ordered by their start."""
    inside, reached = 0, 0
    for loop in loops:
        inside += max(0, loop.end - max(loop.start, reached))
        reached = max(reached, loop.end)
    return inside


def as_sequence(sequence: Sequence[Hashable]) -> Sequence[Hashable]:
    """Convert an array or tensor to a list. A tensor's elements are hashed by identity, so they would never repeat."""
    return sequence.tolist() if hasattr(sequence, "tolist") else sequence


def _at_end(text: str, settings: LoopSettings) -> Loop | None:
    """The longer of two loops at the very end of a text: the exact loop and the loop whose numbers count."""
    least = settings.min_length
    shortest = -(-least // heaviest(text[-least:]))
    if shortest < least:
        exact = loop_at_end(text, settings.min_repeats, shortest, lambda loop: _heavy_enough(text, loop, least))
    else:
        exact = loop_at_end(text, settings.min_repeats, least)
    if not settings.fold_digits or (exact is not None and exact.start == 0):
        return exact
    shortest = _shortest_folded(text[-least:], settings)
    if not may_count_at_end(text, settings.counting_repeats, shortest):
        return exact
    folded = fold(text)
    found = loop_at_end(folded.text, settings.counting_repeats, shortest)
    counting = None if found is None else _unfolded(folded, found, settings)
    return max(filter(None, (exact, counting)), key=lambda loop: loop.length, default=None)


def _numbers_loop(text: str, settings: LoopSettings) -> bool:
    """Whether the text around the numbers repeats often enough for a loop whose numbers count up or down.

    At both ends of such a loop, a few numbers have different text around them.
    """
    return bool(
        all_loops(as_text(marks_of_numbers(text, settings.min_repeats)), settings.min_repeats, settings.min_repeats)
    )


def _shortest_folded(text: str, settings: LoopSettings) -> int:
    """The shortest length, in the folded text, of a loop that is long enough. There each number is one character."""
    return -(-settings.min_length // (2 * heaviest(text)))


def _unfolded(folded: Folded, loop: Loop, settings: LoopSettings) -> Loop | None:
    """The loop of the folded text in the original text; None if its numbers do not count or it is too short."""
    if not folded.counts(loop.start, loop.end, loop.period):
        return None
    start, again, end = (folded.place(place) for place in (loop.start, loop.start + loop.period, loop.end))
    found = Loop(start, end, again - start)
    return found if _heavy_enough(folded.whole, found, settings.min_length) else None


def _has_short_loops(text: str, settings: LoopSettings, shortest: int) -> bool:
    """Whether there may be a loop of at least `shortest` but fewer than `min_length` characters.

    Each character of such a loop equals the character one short period later. Only every second character is compared:
    for even periods with the characters at even positions, for odd periods with those at odd positions.
    """
    points, longest = code_points(text), settings.min_length // settings.min_repeats
    shortest = max(settings.min_repeats, shortest)
    equal = b"\1" * ((shortest - shortest // settings.min_repeats) // 2)
    padded = np.concatenate([points, np.full(longest + longest % 2 + 1, sys.maxunicode + 1, dtype=points.dtype)])
    even, odd = padded[::2].copy(), padded[1::2].copy()
    size = len(points) // 2
    for later, first in ((even, 1), (odd, 0)):
        same = sliding_window_view(later, size)[first:] == even[:size]  # one row per period
        if equal in same.tobytes():
            return True
    return False


def _heavy_enough(text: str, loop: Loop, least: int) -> bool:
    return loop.length >= least or weight(text[loop.start : loop.end]) >= least
