"""Find exact loops of a string: the longest one at its end, or all of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_FEW = 16  # number of characters to search for before a whole block is searched for


@dataclass(frozen=True)
class Loop:
    """A loop: sequence[start:end] repeats with the smallest possible period. Its last period may be incomplete.

    If the loop's numbers count up or down, periods differ in length and `period` is the length of the first one.
    """

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


def loop_at_end(
    text: str, min_repeats: int, min_length: int, accepts: Callable[[Loop], bool] = lambda loop: True
) -> Loop | None:
    """The longest loop at the very end of a text for which `accepts` is true. Takes linear time."""
    mirror, size = text[::-1], len(text)
    shortest = max(min_length, min_repeats)
    repeated = shortest - shortest // min_repeats  # this much at a loop's end also occurs one period earlier
    if mirror.find(mirror[:repeated], 1, size // min_repeats + repeated) < 0:
        return None
    longest = None
    for block, _ in _scales(size, min_repeats, min_length):
        period = mirror.find(mirror[:block], 1, 2 * block)
        if period > 0:
            length = period + _agreement(mirror, 0, period)
            if length >= max(min_length, min_repeats * period) and (longest is None or length > longest.length):
                found = Loop(size - length, size, period)
                longest = found if accepts(found) else longest
    return longest


def all_loops(text: str, min_repeats: int, min_length: int) -> list[Loop]:
    """All loops of a text, in order, each extended as far as possible. Takes n log n time."""
    mirror, size = text[::-1], len(text)
    found = set()
    for block, stride in _scales(size, min_repeats, min_length):
        place, few = 0, min(block, _FEW)
        while place + block <= size:
            # Search for a few characters first: nearly everywhere they do not occur again, and this is faster.
            if text.find(text[place : place + few], place + 1, place + block + few) < 0:
                place += stride
                continue
            again = text.find(text[place : place + block], place + 1, place + 2 * block)
            if again < 0:
                place += stride
                continue
            start = place - _agreement(mirror, size - again, size - place)
            end = again + _agreement(text, place, again)
            found.add(Loop(start, end, again - place))
            # Skip the blocks up to there, since each would find the same loop again.
            place = max(place + stride, end - block - (again - place) + 1)
    counted = (loop for loop in found if loop.length >= max(min_length, min_repeats * loop.period))
    return sorted(counted, key=lambda loop: (loop.start, loop.end))


def _scales(size: int, min_repeats: int, min_length: int) -> Iterator[tuple[int, int]]:
    """Block lengths, with the distances between the blocks to check, that together find every loop.

    Take a block that is at least as long as the loop's period and is followed by one more period of the loop. It occurs
    again after exactly one period; an earlier occurrence would make the period smaller (Fine and Wilf). One scale
    covers periods from `low` to `block`. Their loops have at least `shortest` characters, so they contain such a block
    at a multiple of `stride`.
    """
    shortest = max(min_length, min_repeats)
    while shortest <= size:
        block = shortest // 2
        yield block, shortest * (min_repeats - 1) // min_repeats + 1 - block
        low = block + 1
        shortest = min_repeats * low


def _agreement(text: str, left: int, right: int) -> int:
    """Length of the common prefix of text[left:] and text[right:], left < right, found by doubling, then halving."""
    agreed, step = 0, 32
    while text[left + agreed : left + agreed + step] == text[right + agreed : right + agreed + step]:
        agreed += step
        step *= 2
    while step := step // 2:
        if text[left + agreed : left + agreed + step] == text[right + agreed : right + agreed + step]:
            agreed += step
    return agreed


def as_text(sequence: Sequence[Any]) -> str:
    """Convert ids to a string, one character per distinct element, because strings are searched fastest."""
    try:
        return "".join(map(chr, sequence))  # token ids, which are valid code points
    except (TypeError, ValueError, OverflowError):
        letters: dict[Hashable, str] = {}
        return "".join([letters.setdefault(element, chr(len(letters))) for element in sequence])
