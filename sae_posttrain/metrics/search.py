"""Exact loops of a string: the longest one at its end, or all of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_FEW = 16  # characters that are looked for before a whole block is


@dataclass(frozen=True)
class Loop:
    """sequence[start:end] repeats with the smallest possible period; its last period may be cut short.

    Where the loop counts, `period` is the length of its first one.
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
    """The longest loop at the very end of a text, among those that are accepted. Takes linear time."""
    mirror, size = text[::-1], len(text)
    shortest = max(min_length, min_repeats)
    repeated = shortest - shortest // min_repeats  # stands at the end of any loop, and once more a period before
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
    """All loops of a text, each as far as it goes to both sides, by place. Takes n log n time."""
    mirror, size = text[::-1], len(text)
    found = set()
    for block, stride in _scales(size, min_repeats, min_length):
        place, few = 0, min(block, _FEW)
        while place + block <= size:
            # Nearly everywhere its first characters alone do not come again, which is found out sooner.
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
            # Every block up to there would find this loop again.
            place = max(place + stride, end - block - (again - place) + 1)
    counted = (loop for loop in found if loop.length >= max(min_length, min_repeats * loop.period))
    return sorted(counted, key=lambda loop: (loop.start, loop.end))


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


def as_text(sequence: Sequence[Any]) -> str:
    """Ids as a string, one character for each distinct element, since strings are searched fastest."""
    try:
        return "".join(map(chr, sequence))  # ids, of any vocabulary there is
    except (TypeError, ValueError, OverflowError):
        letters: dict[Hashable, str] = {}
        return "".join([letters.setdefault(element, chr(len(letters))) for element in sequence])
