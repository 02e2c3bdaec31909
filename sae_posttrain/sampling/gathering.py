"""Gather values from all processes of a distributed run, also when the user presses Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


def gathered_from_all(value: T) -> tuple[list[T], bool]:
    """The values of all processes, and whether Ctrl-C reached one of them meanwhile. Every process must call it.

    A process that left a collective call on Ctrl-C would leave the others waiting for it. So each finishes the call,
    and all of them learn about the Ctrl-C.

    Args:
        value: this process's.
    """
    from accelerate.utils import gather_object

    with _interrupts_counted() as interrupts:
        values: list[T] = gather_object([value])
        return values, any(gather_object([bool(interrupts)]))


@contextmanager
def _interrupts_counted() -> Iterator[list[int]]:
    """Append to a list on Ctrl-C instead of raising `KeyboardInterrupt`, which comes in the main thread alone."""
    interrupts: list[int] = []

    def count(number: int, frame: Any) -> None:
        interrupts.append(number)

    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield interrupts  # Ctrl-C is ignored, or kills the process
        return
    signal.signal(signal.SIGINT, count)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)
