"""Commands that are killed or interrupted while they sample."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sae_posttrain.sampling import engine


def lines(path: Path) -> int:
    """Responses in a file of kept ones."""
    return max(0, path.read_bytes().count(b"\n") - 1) if path.exists() else 0


def killed_in_a_fork(run: Callable[[], Any], kept: Path, responses: int) -> None:
    """Run a command in a process of its own, and kill it when it has kept so many responses."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        run()
        os._exit(0)
    until = time.monotonic() + 120
    while lines(kept) < responses and time.monotonic() < until:
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            raise AssertionError("It was done before it could be killed.")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@contextmanager
def interrupted_at(batch: int) -> Iterator[None]:
    """Ctrl-C at the transformers engine's batch of this number."""
    respond, calls = engine._Batches.respond, [0]

    def counted(batches: Any, *given: Any) -> Any:
        calls[0] += 1
        if calls[0] == batch:
            signal.raise_signal(signal.SIGINT)
        return respond(batches, *given)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(engine._Batches, "respond", counted)
            yield
    finally:
        signal.signal(signal.SIGINT, before)
