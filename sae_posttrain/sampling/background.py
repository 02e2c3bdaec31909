"""Run many coroutines concurrently in a separate thread, and yield their results as they are done."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def _nothing() -> None:
    pass


def in_background(
    work: Callable[[T], Awaitable[R]],
    items: Sequence[T],
    at_once: int,
    *,
    before: Callable[[], Awaitable[None]] = _nothing,
    after: Callable[[], Awaitable[None]] = _nothing,
) -> Iterator[R]:
    """Yield the results of `work` on each item, in the order in which they are done.

    The event loop runs in a thread, so that it works inside a notebook's loop as well. When the caller stops early, as
    on Ctrl-C, what is under way is cancelled.

    Args:
        work: a coroutine function. The first exception in it ends all work.
        items: begun in this order.
        at_once: how many are under way at once.
        before, after: awaited first and last.

    Raises:
        Exception: whatever `work` or `before` raised.

    Example:
        >>> async def double(number):
        ...     return 2 * number
        >>> sorted(in_background(double, [1, 2, 3], at_once=2))
        [2, 4, 6]
    """
    results: queue.Queue[tuple[R] | BaseException | None] = queue.Queue()
    loop = asyncio.new_event_loop()

    async def all_of_them() -> None:
        left = iter(items)

        async def worker() -> None:
            for item in left:
                results.put((await work(item),))

        try:
            await before()
            async with asyncio.TaskGroup() as group:
                for _ in range(min(at_once, len(items))):
                    group.create_task(worker())
        finally:
            await after()

    def run() -> None:
        try:
            loop.run_until_complete(main)
            results.put(None)
        except BaseExceptionGroup as group:
            results.put(group.exceptions[0])
        except BaseException as error:
            results.put(error)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    main = loop.create_task(all_of_them())
    thread = threading.Thread(target=run, name="sampling", daemon=True)
    thread.start()
    try:
        while (result := results.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result[0]
    finally:
        with suppress(RuntimeError):  # the loop is closed: all is done
            loop.call_soon_threadsafe(main.cancel)
        thread.join(timeout=10)
