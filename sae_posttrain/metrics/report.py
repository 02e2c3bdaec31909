"""The interface of a measurement's result, for the code that prints, writes or compares it."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from .interval import ClusteredOutcome


class Report(Protocol):
    """The result of a measurement. `measure` prints it, writes it and decides its exit code by it."""

    @property
    def rate(self) -> float:
        """The rate that `--fail-above` checks, from 0 to 1. Smaller is better."""

    @property
    def confidence(self) -> float:
        """The confidence level of its intervals."""

    def rows(self) -> list[dict[str, Any]]:
        """One row per rate, all with the same keys, for tables and CSV."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""

    def table(self) -> str:
        """The rates as text, in percent."""


class Countable(Protocol):
    """The input of `compare_rates`: responses that each failed or passed."""

    @property
    def outcomes(self) -> tuple[ClusteredOutcome, ...]:
        """For each response, its cluster and whether it failed."""

    @property
    def confidence(self) -> float:
        """The confidence level of its intervals."""


class ReportDifference(Protocol):
    """The difference between two reports on the same prompts."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""

    def table(self) -> str:
        """The difference as text."""


R = TypeVar("R", bound=Report)
R_contra = TypeVar("R_contra", contravariant=True)


class Compare(Protocol[R_contra]):
    """A function that compares two reports, such as `compare_rates`."""

    def __call__(self, report: R_contra, against: R_contra, *, seed: int) -> ReportDifference:
        """Compare the reports. Raises: ValueError: the runs answered different prompts."""
