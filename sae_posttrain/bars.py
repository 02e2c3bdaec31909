"""Progress bars. Where no terminal shows them, as in a log file, they print a line a minute instead."""

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
"""Seconds between two lines of a bar; a bar that ends sooner prints none."""


def progress_bar(*given: Any, **options: Any) -> Any:
    """tqdm's bar. If it is not shown on a terminal or in a notebook, it prints a line a minute.

    Args:
        given, options: those of `tqdm`.

    Returns:
        The bar.

    Example:
        >>> list(progress_bar(range(3), "texts", disable=True))
        [0, 1, 2]
    """
    return tqdm.auto.tqdm(*given, **(options if _in_notebook() else _for_file(options)))


@contextmanager
def bars_in_lines() -> Iterator[None]:
    """Let the bars of other libraries print a line a minute too, unless they are shown on a terminal.

    For programs that own their process, as our commands do: it changes tqdm's constructor while it lasts.
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
    """What a bar writes to in place of a file: one line at most every `every` seconds, and one when the bar ends.

    Args:
        stream: where the lines go.
        every: seconds.
        clock: seconds that have passed since any fixed time.
    """

    def __init__(self, stream: TextIO, every: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.every, self.clock = stream, every, clock
        self._next = clock() + every
        self._printed = False
        self._kept = ""

    def write(self, text: str) -> None:
        """Take what tqdm writes: a state after a carriage return, or at the end an empty line."""
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
    """A bar's options, changed if it would be written to something other than a terminal."""
    stream = options.get("file") or sys.stderr
    if options.get("disable") or isinstance(stream, LineStream) or stream is None or stream.isatty():
        return options
    every = {"mininterval": EVERY, "maxinterval": EVERY, "delay": EVERY}
    # Position 0: a bar within another moves the cursor, and a file has none.
    return {**options, **every, "file": LineStream(stream, EVERY), "position": 0, "dynamic_ncols": False}


def _in_notebook() -> bool:
    return any("notebook" in kind.__module__ for kind in tqdm.auto.tqdm.__mro__)
