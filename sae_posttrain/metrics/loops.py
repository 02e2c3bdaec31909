"""Loops: where a text, or a sequence of token ids, repeats itself exactly, at its end or anywhere."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

# Chosen by measurement (benchmarks/repetition_detection.py); no source publishes its own.
MIN_REPEATS = 4
MIN_CHARACTERS = 100
MIN_TOKENS = 50


@dataclass(frozen=True)
class Loop:
    """sequence[start:end] repeats with the smallest possible period; its last period may be cut short."""

    start: int
    end: int
    period: int

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def repeats(self) -> int:
        """Whole periods."""
        return self.length // self.period


def find_loop(
    sequence: Sequence[Hashable], *, min_repeats: int = MIN_REPEATS, min_length: int | None = None
) -> Loop | None:
    """The longest loop that `sequence` ends in, if any: exact repetition, of any period, cut off anywhere.

    sequence: a text, read by characters, so that languages without spaces are served; or token ids, without padding.
    A loop has at least `min_repeats` whole periods and `min_length` characters (default: 100) or ids (default: 50), so
    that '!!!!', a table's rule or a refrain is none. White space behind a text's loop is passed over. Ids that keep
    their end-of-sequence token do not end in a loop: the model stopped by itself, which a text cannot tell. Where the
    loop changes, as a counter does, it ends; see `fold_digits`. Takes linear time.

    Raises: ValueError for fewer than 3 repeats: what stands there twice is a quotation.
    """
    text, min_length = _prepare(sequence, min_repeats, min_length)
    found = _loop_at_end(text, min_repeats, min_length)
    if found is None and isinstance(sequence, str):
        found = _loop_at_end(text.rstrip(), min_repeats, min_length)
    return found


def find_loops(
    sequence: Sequence[Hashable], *, min_repeats: int = MIN_REPEATS, min_length: int | None = None
) -> list[Loop]:
    """All loops of `sequence`, each as far as it goes to both sides, by place; loops of unlike periods may overlap.

    What counts is as in `find_loop`. Takes n log n time.
    """
    text, min_length = _prepare(sequence, min_repeats, min_length)
    mirror, size = text[::-1], len(text)
    found = set()
    for block, stride in _scales(size, min_repeats, min_length):
        place = 0
        while place + block <= size:
            again = text.find(text[place : place + block], place + 1, place + 2 * block)
            if again < 0:
                place += stride
                continue
            start = place - _agreement(mirror, size - again, size - place)
            end = again + _agreement(text, place, again)
            found.add(Loop(start, end, again - place))
            # Every block up to there would find this loop again.
            place = max(place + stride, end - block - (again - place) + 1)
    counted = (loop for loop in found if loop.length >= max(min_length, min_repeats * loop.period))
    return sorted(counted, key=lambda loop: (loop.start, loop.end))


def looped_share(
    sequence: Sequence[Hashable], *, min_repeats: int = MIN_REPEATS, min_length: int | None = None
) -> float:
    """The share of `sequence` that lies inside loops, at its end or not; 0 when it is empty."""
    covered, reached = 0, 0
    for loop in find_loops(sequence, min_repeats=min_repeats, min_length=min_length):
        covered += max(0, loop.end - max(loop.start, reached))
        reached = max(reached, loop.end)
    return covered / len(sequence) if covered else 0.0


def fold_digits(text: str) -> str:
    """The text with every digit as 0, for finding loops that count: 'Step 11 … Step 12 …'. Places stay as they are.

    A number that gains a digit (9, 10) still starts another loop.
    """
    return re.sub(r"\d", "0", text)


def plain(sequence: Sequence[Hashable]) -> Sequence[Hashable]:
    """An array or tensor as a list: a tensor's own elements are hashed by identity, and would never repeat."""
    return sequence.tolist() if hasattr(sequence, "tolist") else sequence


def _loop_at_end(text: str, min_repeats: int, min_length: int) -> Loop | None:
    mirror, size = text[::-1], len(text)
    longest = None
    for block, _ in _scales(size, min_repeats, min_length):
        period = mirror.find(mirror[:block], 1, 2 * block)
        if period > 0:
            length = period + _agreement(mirror, 0, period)
            if length >= max(min_length, min_repeats * period) and (longest is None or length > longest.length):
                longest = Loop(size - length, size, period)
    return longest


def _scales(size: int, min_repeats: int, min_length: int) -> Iterator[tuple[int, int]]:
    """Lengths of blocks, and how far apart to look at them, that together meet every loop.

    A block no shorter than the loop's period, with one more period behind it inside the loop, comes again after
    exactly one period: sooner would make the period smaller (Fine and Wilf). One scale serves periods from `low` to
    `block`; their loops are at least `shortest` long and leave room for such a block at every `stride`.
    """
    shortest = max(min_length, min_repeats)
    while shortest <= size:
        block = shortest // 2
        yield block, shortest * (min_repeats - 1) // min_repeats + 1 - block
        low = block + 1
        shortest = min_repeats * low


def _agreement(text: str, left: int, right: int) -> int:
    """How many characters from `left` on are those from `right` on, left < right; by doubling, then halving."""
    agreed, step = 0, 32
    while text[left + agreed : left + agreed + step] == text[right + agreed : right + agreed + step]:
        agreed += step
        step *= 2
    while step := step // 2:
        if text[left + agreed : left + agreed + step] == text[right + agreed : right + agreed + step]:
            agreed += step
    return agreed


def _prepare(sequence: Sequence[Hashable], min_repeats: int, min_length: int | None) -> tuple[str, int]:
    """The sequence as a string, one character for each distinct element, since strings are searched fastest."""
    if min_repeats < 3:
        raise ValueError(f"min_repeats must be at least 3, got {min_repeats}: what stands there twice is a quotation")
    if min_length is not None and min_length < 1:
        raise ValueError(f"min_length must be at least 1, got {min_length}")
    if isinstance(sequence, str):
        return sequence, MIN_CHARACTERS if min_length is None else min_length
    return _as_text(plain(sequence)), MIN_TOKENS if min_length is None else min_length


def _as_text(sequence: Sequence[Any]) -> str:
    try:
        return "".join(map(chr, sequence))  # ids, of any vocabulary there is
    except (TypeError, ValueError, OverflowError):
        letters: dict[Hashable, str] = {}
        return "".join([letters.setdefault(element, chr(len(letters))) for element in sequence])
