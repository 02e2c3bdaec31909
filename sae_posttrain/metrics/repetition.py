"""How repetitive responses are: the share that ends in an endless loop, and n-gram measures beside it."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from statistics import fmean, median
from typing import Any

import numpy as np
import regex

from ..languages import UNSPACED_SCRIPTS
from .interval import Outcome, clustered_interval
from .loops import MIN_CHARACTERS, MIN_REPEATS, MIN_TOKENS, Loop, find_loop, looped_share, plain
from .scripts import code_points, every_character

TENTHS = 10


@dataclass(frozen=True)
class RepetitionReport:
    """How many of `total` responses end in a loop, with that share's interval; what the loops and responses are like.

    Lengths are in `unit`: characters or tokens.
    """

    looped: int
    total: int
    low: float
    high: float
    confidence: float
    unit: str
    min_repeats: int
    min_length: int
    period: float | None  # median over the loops
    start: float | None  # where they begin, as a share of the response; median over the loops
    looped_share: float  # of a response, inside loops at its end or anywhere; this and the next: means over responses
    rep_4: float
    distinct_1: float
    periods: tuple[tuple[int, int, int], ...]  # loops by period: from, to, how many
    starts: tuple[int, ...]  # loops by the tenth of its response in which each begins
    outcomes: tuple[Outcome, ...] = field(default=(), repr=False)  # of each response, for `compare_rates`

    @property
    def rate(self) -> float:
        return self.looped / self.total

    def rows(self) -> list[dict[str, Any]]:
        """The numbers that are of all responses in one row, for .csv."""
        listed = ("periods", "starts", "outcomes")
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in listed}
        return [{"rate": self.rate, **values}]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        periods = [{"from": low, "to": high, "loops": loops} for low, high, loops in self.periods]
        return {**self.rows()[0], "periods": periods, "starts": list(self.starts)}

    def table(self) -> str:
        """The rate in percent, then a line each for the loops and for the responses."""
        lines = [
            f"looped     total    rate %   {self.confidence:.0%} interval",
            f"{self.looped:>6} {self.total:>9} {100 * self.rate:>9.3f}   {100 * self.low:.3f} to {100 * self.high:.3f}",
        ]
        if self.period is not None and self.start is not None:
            lines.append(
                f"median loop: period {self.period:g} {self.unit}, begins after {self.start:.0%} of its response"
            )
            by_period = ", ".join(f"{low}-{high}: {loops}" for low, high, loops in self.periods)
            lines.append(f"loops by period in {self.unit}: {by_period}")
            lines.append(f"loops by the tenth of the response they begin in: {' '.join(map(str, self.starts))}")
        lines.append(
            f"mean response: {100 * self.looped_share:.2f}% inside loops, "
            f"rep-4 {100 * self.rep_4:.2f}%, distinct-1 {100 * self.distinct_1:.2f}%"
        )
        return "\n".join(lines)


def repetition_rate(
    responses: Sequence[str] | Sequence[Sequence[Hashable]],
    *,
    clusters: Sequence[Hashable] | None = None,
    min_repeats: int = MIN_REPEATS,
    min_length: int | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> RepetitionReport:
    """The share of responses that end in a loop, with a bootstrap interval (see `share_interval`).

    responses: texts, or token ids without padding; ids that keep their end-of-sequence token tell a loop that ran into
    the length limit from one that the model ended, texts do not. What counts as a loop: see `find_loop`. clusters: what
    responses share, usually the prompt, so that eight samples of one prompt are not taken for eight independent ones.

    Raises: ValueError when there are no responses, or not one cluster for each.
    Source: arXiv:2605.11887, repeat ratio; its detector is not published.
    """
    if not len(responses):
        raise ValueError("nothing to measure among 0 responses")
    of_text = isinstance(responses[0], str)
    if min_length is None:
        min_length = MIN_CHARACTERS if of_text else MIN_TOKENS
    loops = [find_loop(response, min_repeats=min_repeats, min_length=min_length) for response in responses]
    low, high = clustered_interval(
        [loop is not None for loop in loops], clusters, confidence=confidence, resamples=resamples, seed=seed
    )
    found = [(loop, len(response)) for loop, response in zip(loops, responses, strict=True) if loop]
    inside, rep_4, distinct_1 = zip(*(_shares(row, min_repeats, min_length) for row in responses), strict=True)
    return RepetitionReport(
        looped=len(found),
        total=len(loops),
        low=low,
        high=high,
        confidence=confidence,
        unit="characters" if of_text else "tokens",
        min_repeats=min_repeats,
        min_length=min_length,
        period=median(loop.period for loop, _ in found) if found else None,
        start=median(loop.start / length for loop, length in found) if found else None,
        looped_share=fmean(inside),
        rep_4=fmean(rep_4),
        distinct_1=fmean(distinct_1),
        periods=_periods([loop for loop, _ in found]),
        starts=_starts(found),
        outcomes=tuple(
            (index if clusters is None else clusters[index], loop is not None) for index, loop in enumerate(loops)
        ),
    )


def rep_n(sequence: Sequence[Hashable], n: int) -> float:
    """The share of n-grams that stood in `sequence` before; 0 when it is shorter than n.

    Of token ids, or of a text's words and punctuation marks, where scripts without spaces count by character.
    Source: arXiv:1908.04319, seq-rep-n.
    """
    return 1 - distinct_n(sequence, n)


def distinct_n(sequence: Sequence[Hashable], n: int) -> float:
    """Distinct n-grams over all n-grams, of the units of `rep_n`; 1 when `sequence` is shorter than n.

    Source: arXiv:1510.03055.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    units = _units(sequence)
    total = len(units) - n + 1
    return len(set(zip(*(units[skip:] for skip in range(n)), strict=False))) / total if total > 0 else 1.0


def _periods(loops: Sequence[Loop]) -> tuple[tuple[int, int, int], ...]:
    """Loops by powers of two: 1, 2 to 3, 4 to 7, and so on up to the longest period."""
    longest = max((loop.period.bit_length() for loop in loops), default=0)
    powers = [loop.period.bit_length() - 1 for loop in loops]
    return tuple((1 << power, (2 << power) - 1, powers.count(power)) for power in range(longest))


def _starts(found: Sequence[tuple[Loop, int]]) -> tuple[int, ...]:
    tenths = [loop.start * TENTHS // length for loop, length in found]
    return tuple(tenths.count(tenth) for tenth in range(TENTHS))


def _shares(response: Sequence[Hashable], min_repeats: int, min_length: int) -> tuple[float, float, float]:
    units = _units(response)
    inside = looped_share(response, min_repeats=min_repeats, min_length=min_length)
    return inside, rep_n(units, 4), distinct_n(units, 1)


def _units(sequence: Sequence[Hashable]) -> Sequence[Hashable]:
    if not isinstance(sequence, str):
        return plain(sequence)
    kinds = _kinds().take(code_points(sequence))
    word, single = kinds == _WORD, kinds == _SINGLE
    before, after = np.zeros_like(word), np.zeros_like(word)
    before[1:], after[:-1] = word[:-1], word[1:]
    starts, ends = np.flatnonzero(single | word & ~before), np.flatnonzero(single | word & ~after) + 1
    return [sequence[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


_SPACE, _WORD, _SINGLE = 0, 1, 2


@cache
def _kinds() -> np.ndarray:
    """For every character, whether it goes with its neighbours into a word, or stands alone, or is space."""
    unspaced = "".join(rf"\p{{Script={script}}}" for script in UNSPACED_SCRIPTS)
    kinds = np.full(sys.maxunicode + 1, _SINGLE, dtype=np.uint8)
    for kind, pattern in ((_WORD, rf"[^\W{unspaced}]+"), (_SPACE, r"\s+")):
        for match in regex.finditer(pattern, every_character()):
            kinds[match.start() : match.end()] = kind
    return kinds
