"""Measure how repetitive responses are: the share that ends in an endless loop, and further measures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, fields
from statistics import fmean, median
from typing import Any, Literal

from .interval import ClusteredOutcome
from .loops import DEFAULT_LOOPS, LoopSettings, covered, find_loop, find_loops, split_loops
from .near_loops import NearLoop, find_near_loop
from .search import Loop
from .share import Share
from .units import units_of

TENTHS = 10


@dataclass(frozen=True)
class Repetition:
    """The repetition in one response.

    Args:
        loop: the endless loop at its end; None if the model ended the response by itself.
        near_loop: the near-loop at its end, if there is no loop; None if the model ended the response by itself.
        left: loops before its end, without layout (white space, the rules of tables).
        ended_loop: the loop at the end of a response that the model ended by itself. It is not an endless loop.
        looped_share: share of the response that is inside `loop` and `left`.
        rep_4: share of its 4-grams that occurred earlier in the response.
        distinct_1: number of distinct words over number of words.
    """

    loop: Loop | None
    near_loop: NearLoop | None
    left: tuple[Loop, ...]
    ended_loop: Loop | None
    looped_share: float
    rep_4: float
    distinct_1: float

    @property
    def kind(self) -> Literal["loop", "near-loop", "left"] | None:
        """The most serious finding: an endless loop, then a near-loop at the end, then a loop that was left again."""
        if self.loop is not None:
            return "loop"
        return "near-loop" if self.near_loop is not None else "left" if self.left else None


def find_repetition(
    response: Sequence[Hashable], settings: LoopSettings = DEFAULT_LOOPS, *, ended: bool | None = None
) -> Repetition:
    """Find the repetition in one response, which is a text or token ids without padding.

    Args:
        response: as in `find_loop`.
        settings: what counts as a loop.
        ended: whether the model ended the response by itself, as in `find_loop`.

    Returns:
        Loops and near-loops of the response, and its shares of repeated n-grams and distinct words.

    Example:
        >>> find_repetition("I think. " * 40 + "So that is how it was, and we went home.").kind
        'left'

    Source: arXiv:1908.04319 (seq-rep-4) and arXiv:1510.03055 (distinct-1); the definition of a loop is our own.
    """
    loop = find_loop(response, settings, ended=ended)
    at_end, left = split_loops(response, find_loops(response, settings))
    ended_loop = max(at_end, key=lambda one: one.length, default=None) if ended else None
    inside = left if ended else sorted([*at_end, *left], key=lambda one: one.start)
    units = units_of(response)
    near_loop = None
    if loop is None and not ended:
        near_loop = find_near_loop(units, settings, text=response if isinstance(response, str) else None)
    return Repetition(
        loop,
        near_loop,
        tuple(left),
        ended_loop,
        covered(inside) / len(response) if inside else 0.0,
        1 - units.distinct_n(4),
        units.distinct_n(1),
    )


@dataclass(frozen=True)
class RepetitionReport:
    """The share of responses that end in an endless loop, and further measures.

    Lengths are in `unit`: characters or tokens. `near_looped` and `left` are not part of the rate.

    Args:
        loops: share of the responses that end in a loop and were not ended by the model.
        confidence: confidence level of the interval of `loops`.
        near_looped: responses that end in a near-loop instead (see `find_near_loop`).
        left: other responses with a loop before their end. They end in neither a loop nor a near-loop.
        ended_looped: responses that end in a loop, but were ended by the model.
        unknown_ends: responses of which it is not known why they ended. They are treated as cut at the token limit.
        min_repeats, min_length, fold_digits: what counts as a loop, as in `LoopSettings`; min_length is in `unit`.
        period: median period of the loops.
        start: median start of the loops, as a share of the response.
        looped_share: mean share of a response inside loops, at its end or earlier.
        rep_4, distinct_1: means over the responses.
        periods: histogram of the periods: smallest period, largest period, number of loops.
        starts: number of loops that begin in each tenth of their response.
        outcomes: the cluster and result of each response; used by `compare_rates`.

    Example:
        >>> report = repetition_rate(["Once. " + "Again and again. " * 10, "A short answer."])
        >>> report.rate, report.period
        (0.5, 17)

    Source: arXiv:2605.11887, repeat ratio.
    """

    loops: Share
    confidence: float
    unit: str
    near_looped: int
    left: int
    ended_looped: int
    unknown_ends: int
    min_repeats: int
    min_length: int
    fold_digits: bool
    period: float | None
    start: float | None
    looped_share: float
    rep_4: float
    distinct_1: float
    periods: tuple[tuple[int, int, int], ...]
    starts: tuple[int, ...]
    outcomes: tuple[ClusteredOutcome, ...] = field(default=(), repr=False)

    @property
    def rate(self) -> float:
        return self.loops.rate

    def rows(self) -> list[dict[str, Any]]:
        """One row with the values over all responses, for .csv."""
        left_out = ("loops", "periods", "starts", "outcomes")
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in left_out}
        return [{**self.loops.to_dict("looped"), **values}]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        periods = [{"from": low, "to": high, "loops": loops} for low, high, loops in self.periods]
        return {**self.rows()[0], "periods": periods, "starts": list(self.starts)}

    def table(self) -> str:
        """The rate in percent, then lines about the loops, about what is not in the rate, and about the responses."""
        loops = self.loops
        lines = [
            f"looped     total    rate %   {self.confidence:.0%} interval",
            f"{loops.hits:>6} {loops.total:>9} {100 * loops.rate:>9.3f}   "
            f"{100 * loops.low:.3f} to {100 * loops.high:.3f}",
        ]
        if self.period is not None and self.start is not None:
            lines.append(
                f"median loop: period {self.period:g} {self.unit}, begins after {self.start:.0%} of its response"
            )
            by_period = ", ".join(f"{low}-{high}: {loops}" for low, high, loops in self.periods)
            lines.append(f"loops by period in {self.unit}: {by_period}")
            lines.append(f"loops by the tenth of the response they begin in: {' '.join(map(str, self.starts))}")
        lines.append(
            f"not in the rate: {self.near_looped} end in a near-loop, {self.left} left a loop again, "
            f"{self.ended_looped} end in a loop that the model ended by itself"
        )
        if self.unknown_ends:
            lines.append(
                f"for {self.unknown_ends} responses it is not known why they ended; "
                "they count as cut at the token limit"
            )
        lines.append(
            f"mean response: {100 * self.looped_share:.2f}% inside loops, "
            f"rep-4 {100 * self.rep_4:.2f}%, distinct-1 {100 * self.distinct_1:.2f}%"
        )
        return "\n".join(lines)


def repetition_rate(
    responses: Sequence[str] | Sequence[Sequence[Hashable]],
    settings: LoopSettings = DEFAULT_LOOPS,
    *,
    ended: Sequence[bool | None] | None = None,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> RepetitionReport:
    """The share of responses that end in an endless loop, with a bootstrap interval (see `share_interval`).

    Args:
        responses: texts, or token ids without padding.
        settings: what counts as a loop.
        ended: for each response, whether the model ended it by itself, as in `Response.ended`; None if this is not
            known. A response that the model ended is never an endless loop. Token ids that keep their end-of-sequence
            token need no `ended`.
        clusters: for each response, the prompt or another value that dependent responses share. The bootstrap draws
            whole clusters, so that eight samples of one prompt do not count as eight independent ones.
        confidence, resamples, seed: confidence level, number of draws and random seed of the interval.

    Returns: the rate with its interval, and statistics of the loops.

    Raises: ValueError: there are no responses, or `clusters` or `ended` has another length than `responses`.

    Example:
        >>> repetition_rate(["Once. " + "Again and again. " * 10, "A short answer."]).rate
        0.5

    Source: arXiv:2605.11887, repeat ratio; its detector is not published.
    """
    if not len(responses):
        raise ValueError("nothing to measure: there are no responses.")
    ends = [None] * len(responses) if ended is None else list(ended)
    if len(ends) != len(responses):
        raise ValueError(f"ended has {len(ends)} entries and there are {len(responses)} responses; give one for each.")
    reasons = [end for end in ends if isinstance(end, str)]
    if reasons:  # a text such as "length" would count as true
        raise ValueError(f"ended must hold True, False or None, got {reasons[0]!r}.")
    found = [find_repetition(row, settings, ended=end) for row, end in zip(responses, ends, strict=True)]
    looped = [one.loop is not None for one in found]
    loops = [(one.loop, len(row)) for one, row in zip(found, responses, strict=True) if one.loop is not None]
    kinds = Counter(one.kind for one in found)
    return RepetitionReport(
        loops=Share.of(looped, clusters, confidence=confidence, resamples=resamples, seed=seed),
        confidence=confidence,
        unit="characters" if isinstance(responses[0], str) else "tokens",
        near_looped=kinds["near-loop"],
        left=kinds["left"],
        ended_looped=sum(one.ended_loop is not None for one in found),
        unknown_ends=ends.count(None),
        min_repeats=settings.min_repeats,
        min_length=settings.length_of(responses[0]),
        fold_digits=settings.fold_digits,
        period=median(loop.period for loop, _ in loops) if loops else None,
        start=median(loop.start / length for loop, length in loops) if loops else None,
        looped_share=fmean(one.looped_share for one in found),
        rep_4=fmean(one.rep_4 for one in found),
        distinct_1=fmean(one.distinct_1 for one in found),
        periods=_periods([loop for loop, _ in loops]),
        starts=_starts(loops),
        outcomes=tuple(
            (index if clusters is None else clusters[index], is_loop) for index, is_loop in enumerate(looped)
        ),
    )


def _periods(loops: Sequence[Loop]) -> tuple[tuple[int, int, int], ...]:
    """Number of loops by period, in powers of two: 1, 2 to 3, 4 to 7, and so on up to the longest period."""
    longest = max((loop.period.bit_length() for loop in loops), default=0)
    powers = [loop.period.bit_length() - 1 for loop in loops]
    return tuple((1 << power, (2 << power) - 1, powers.count(power)) for power in range(longest))


def _starts(found: Sequence[tuple[Loop, int]]) -> tuple[int, ...]:
    tenths = [loop.start * TENTHS // length for loop, length in found]
    return tuple(tenths.count(tenth) for tenth in range(TENTHS))
