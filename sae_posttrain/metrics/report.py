"""What a measurement hands to everything that prints, writes or compares it."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from .interval import ClusteredOutcome


class Report(Protocol):
    """The result of a measurement. `measure` prints it, writes it and decides its exit code by it."""

    @property
    def rate(self) -> float:
        """The one number that `--fail-above` looks at, from 0 to 1; smaller is better."""

    @property
    def confidence(self) -> float:
        """The confidence level of its intervals."""

    def rows(self) -> list[dict[str, Any]]:
        """A row for each rate, all with the same keys, for tables and CSV."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""

    def table(self) -> str:
        """The rates as text, in percent."""


class Countable(Protocol):
    """What `compare_rates` compares: responses that each went wrong or did not."""

    @property
    def outcomes(self) -> tuple[ClusteredOutcome, ...]:
        """For each response, its cluster and whether it went wrong."""

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
        """Raises: ValueError: the runs answered other prompts."""
