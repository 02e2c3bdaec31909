"""Ctrl-C while the processes of a distributed run gather: each finishes the call, so that none waits forever."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from sae_posttrain.sampling import KeyedResponses, Response

FOUND = {(0, 0, 0): Response("a", "stop", 1)}


@pytest.fixture(params=[0, 1, 2])
def interrupts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """How many Ctrl-C come while this process waits for the others, as from a terminal and from a launcher."""

    def gather(values: list[Any]) -> list[Any]:
        if not isinstance(values[0], bool):
            for _ in range(request.param):
                signal.raise_signal(signal.SIGINT)
        return values * 2

    monkeypatch.setattr("accelerate.utils.gather_object", gather)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C
    yield request.param
    signal.signal(signal.SIGINT, before)


def test_every_process_learns_of_an_interrupt_and_keeps_the_responses(interrupts: int) -> None:
    together = KeyedResponses(dict(FOUND)).gathered(2)
    assert together.found == FOUND
    assert together.interrupted == bool(interrupts)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)  # as before
