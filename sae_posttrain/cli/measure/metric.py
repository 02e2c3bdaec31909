"""The interface between one kind of `measure` and the code that samples, prints and writes its results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

from ...metrics.report import Compare, R
from ...texts import Row


@dataclass(frozen=True)
class Metric(Generic[R]):
    """The functions of one kind of `measure`.

    Args:
        report: function from rows, each with a `response`, to the report.
        mark: function that adds the findings of one response to its row, for the --output file.
        compare: compares two reports on the same prompts, for --against.
        joined: whether the parts of a response are joined before they are read, as in `Parts`.
        options: options that are added to the report in JSON.
    """

    report: Callable[[Sequence[Row]], R]
    mark: Callable[[Row], None]
    compare: Compare[R]
    joined: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
