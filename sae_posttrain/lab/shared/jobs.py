"""Run jobs of the demo in two processes, with one thread each.

The models are so small that several torch threads would mostly wait for each other, especially on a busy machine.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, ParamSpec, Protocol, TypeVar

import torch

from .console import quiet

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


class Jobs(Protocol):
    """Starts a function and returns its future. The function and its arguments must be picklable."""

    def __call__(
        self, function: Callable[Given, Returned], /, *given: Given.args, **named: Given.kwargs
    ) -> Future[Returned]: ...


@contextmanager
def processes(count: int | None = None) -> Iterator[Jobs]:
    """Start processes that run jobs, with one thread each and without library output. Jobs start in order.

    Args:
        count: number of processes. Default: two, or one if there is only one core. With one, jobs run in this process.
    """
    count = min(2, _cores()) if count is None else count
    with one_thread():
        if count == 1:
            yield at_once
            return
        context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads
        pool = ProcessPoolExecutor(count, context, initializer=_end_with_parent)
        try:
            yield lambda function, /, *given, **named: pool.submit(_alone, function, *given, **named)
        finally:
            pool.shutdown(cancel_futures=True)


def at_once(function: Callable[Given, Returned], /, *given: Given.args, **named: Given.kwargs) -> Future[Returned]:
    """Run the job immediately, in this process."""
    done: Future[Returned] = Future()
    done.set_result(_alone(function, *given, **named))
    return done


@contextmanager
def one_thread() -> Iterator[None]:
    """Make torch use one thread inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _alone(function: Callable[..., Any], /, *given: Any, **named: Any) -> Any:
    with one_thread(), quiet():
        return function(*given, **named)


def _end_with_parent() -> None:
    """End this process when its parent ends for any reason."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
