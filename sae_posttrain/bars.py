"""Progress bars. If the output is not a terminal, such as a log file, they print one line per minute instead."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import tqdm.auto
import tqdm.std

EVERY = 60.0
"""Seconds between two lines of a bar. A bar that ends sooner prints no line."""


def progress_bar(*given: Any, **options: Any) -> Any:
    """A tqdm progress bar that prints one line per minute if the output is not a terminal or a notebook.

    Args:
        given, options: arguments of `tqdm`.

    Returns:
        The bar.

    Example:
        >>> list(progress_bar(range(3), "texts", disable=True))
        [0, 1, 2]
    """
    return tqdm.auto.tqdm(*given, **(options if _in_notebook() else _for_file(options)))


@contextmanager
def bars_in_lines() -> Iterator[None]:
    """Make the bars of other libraries print one line per minute too, unless the output is a terminal.

    It changes tqdm's constructor inside the block, so use it only in programs that own their process, like our
    commands.
    """
    original = tqdm.std.tqdm.__init__

    @functools.wraps(original)
    def init(self: Any, *given: Any, **options: Any) -> None:
        original(self, *given, **_for_file(options))

    tqdm.std.tqdm.__init__ = init
    try:
        yield
    finally:
        tqdm.std.tqdm.__init__ = original


class LineStream:
    """A stream for a bar that writes at most one line every `every` seconds, and one line when the bar ends.

    Args:
        stream: stream to write the lines to.
        every: seconds between lines.
        clock: function that returns the time in seconds.
    """

    def __init__(self, stream: TextIO, every: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.every, self.clock = stream, every, clock
        self._next = clock() + every
        self._printed = False
        self._kept = ""

    def write(self, text: str) -> None:
        """Receive tqdm's output: the bar after a carriage return, or an empty line at the end."""
        state = text.strip()
        if state:
            self._kept = state
        if self._kept and (self.clock() >= self._next or (text == "\n" and self._printed)):
            self.stream.write(f"{self._kept}\n")
            self.stream.flush()
            self._next, self._printed, self._kept = self.clock() + self.every, True, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _for_file(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a bar, adapted if its output is not a terminal."""
    stream = options.get("file") or sys.stderr
    if options.get("disable") or isinstance(stream, LineStream) or stream is None or stream.isatty():
        return options
    every = {"mininterval": EVERY, "maxinterval": EVERY, "delay": EVERY}
    # Position 0, because a nested bar moves the cursor, which a file does not have.
    return {**options, **every, "file": LineStream(stream, EVERY), "position": 0, "dynamic_ncols": False}


def _in_notebook() -> bool:
    return any("notebook" in kind.__module__ for kind in tqdm.auto.tqdm.__mro__)
