"""A share of responses with its confidence interval: the one type for every rate that counts responses."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .interval import clustered_interval


@dataclass(frozen=True)
class Share:
    """How many of `total` responses are hits, and the confidence interval of that share.

    Args:
        hits: number of responses with the measured property, such as a switch, a loop, or no wrong line.
        total: number of responses that were judged; at least 1.
        low, high: bounds of the interval, from 0 to 1.
        graded: mean over the responses of the part of each that is a hit, from 0 to 1, such as the share of its words
            that belong to switches. None if this is not measured.

    Example:
        >>> Share.of([True, False, False, False]).rate
        0.25
    """

    hits: int
    total: int
    low: float
    high: float
    graded: float | None = None

    @property
    def rate(self) -> float:
        """The share itself, from 0 to 1."""
        return self.hits / self.total

    @classmethod
    def of(
        cls,
        hits: Sequence[bool],
        clusters: Sequence[Hashable] | None = None,
        *,
        graded: float | None = None,
        confidence: float = 0.95,
        resamples: int = 10_000,
        seed: int = 0,
    ) -> Share:
        """Count hits, and compute the bootstrap interval over clusters (see `share_interval`).

        Args:
            hits: for each response, whether it is a hit.
            clusters: for each response, the prompt or another value that dependent responses share. Default: each
                response is a cluster of its own.
            graded: see the class.
            confidence, resamples, seed: confidence level, number of draws and random seed of the interval.

        Raises:
            ValueError: there are no responses, or the numbers of hits and clusters differ.
        """
        low, high = clustered_interval(hits, clusters, confidence=confidence, resamples=resamples, seed=seed)
        return cls(sum(hits), len(hits), low, high, graded)

    def to_dict(self, hits: str = "hits") -> dict[str, Any]:
        """Plain values for JSON. `hits` is the key for the number of hits, such as "looped"."""
        return {"rate": self.rate, hits: self.hits, "total": self.total, "low": self.low, "high": self.high}


ShareOf: TypeAlias = Callable[[Sequence[bool], Sequence[Hashable]], Share]
"""`Share.of` with its options already set."""
