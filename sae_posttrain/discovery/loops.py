"""Mark the periods of a loop that are compared."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ..feature_set.checks import LAST_PERIOD, ORDINARY_TEXT
from ..metrics import find_loops
from ..metrics.loops import EXACT_LOOPS, LoopSettings
from ..metrics.search import Loop
from ..vocabulary import token_bytes
from .statistics import GroupSpan, TokenPassage

FIRST, LAST, ORDINARY = "first period", LAST_PERIOD, ORDINARY_TEXT


def digit_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that consist of digits only, perhaps after a space."""
    raws = enumerate(token_bytes(tokenizer))
    return frozenset(index for index, raw in raws if raw.strip().decode("utf-8", "replace").isdecimal())


def passage_of(
    ids: Sequence[int],
    max_length: int,
    loop_settings: LoopSettings = EXACT_LOOPS,
    digits: frozenset[int] = frozenset(),
) -> TokenPassage:
    """Mark the first and the last whole period of the last loop in `ids[:max_length]`, and the text before it.

    Earlier loops are not marked, as loop or as ordinary text. Every period has the same total weight, whatever its
    length. Both marked periods begin at the same token of the period, so that each token is compared with itself. A
    loop with fewer than two whole periods in `max_length` is not marked.

    Args:
        ids: token ids.
        max_length: number of them that are read.
        loop_settings: what counts as a loop.
        digits: tokens that are treated as equal, also several in a row, so that text which repeats except for its
            numbers is a loop. Such a loop needs twice as many periods.
    """
    folded, places = _folded(ids, digits)
    loops = find_loops(folded, loop_settings)
    if digits:
        loops = [
            loop
            for loop in loops
            if loop.repeats >= loop_settings.counting_repeats
            or digits.isdisjoint(ids[places[loop.start] : places[loop.end]])
        ]
    whole, ids = [Loop(places[one.start], places[one.end], one.period) for one in loops], ids[:max_length]
    if not loops:
        return TokenPassage(ids, _spans(GroupSpan(ORDINARY, 1, len(ids))))
    loop = max(loops, key=lambda loop: (loop.end, loop.length))
    start = max(loop.start, 1)  # the first position is no token like others: see collect_statistics
    read = bisect_right(places, len(ids)) - 1
    last = (min(loop.end, read) - start) // loop.period - 1
    spans = _outside(whole, min(places[start], len(ids)))
    if last >= 1:
        for group, begin in ((FIRST, start), (LAST, start + last * loop.period)):
            from_, to = places[begin], places[begin + loop.period]
            spans.append(GroupSpan(group, from_, to, 1 / (to - from_)))
    return TokenPassage(ids, _spans(*spans))


def _folded(ids: Sequence[int], digits: frozenset[int]) -> tuple[list[int], list[int]]:
    """The ids with each run of digits replaced by one id; and the position where each new id begins, then the end."""
    one = min(digits, default=0)
    folded, places = list[int](), list[int]()
    for place, token in enumerate(ids):
        if token in digits and folded and folded[-1] == one and ids[place - 1] in digits:
            continue
        folded.append(one if token in digits else token)
        places.append(place)
    return folded, [*places, len(ids)]


def _outside(loops: Sequence[Loop], end: int) -> list[GroupSpan]:
    """The spans before `end` that are in no loop."""
    spans, at = [], 1
    for loop in sorted(loops, key=lambda loop: loop.start):
        spans.append(GroupSpan(ORDINARY, at, min(loop.start, end)))
        at = max(at, loop.end)
    return [*spans, GroupSpan(ORDINARY, at, end)]


def _spans(*spans: GroupSpan) -> list[GroupSpan]:
    return [span for span in spans if span.end > span.start]
