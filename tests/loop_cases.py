"""Texts with loops in them, and the search through every period that the others are compared with."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence

from sae_posttrain.metrics import Loop


def every_loop(sequence: Sequence[Hashable], min_repeats: int, min_length: int) -> list[Loop]:
    """Period by period, place by place; the first period to fit a stretch is its smallest."""
    loops: dict[tuple[int, int], Loop] = {}
    for period in range(1, len(sequence) // min_repeats + 1):
        same = [a == b for a, b in zip(sequence, sequence[period:], strict=False)]
        start = 0
        for place, equal in enumerate([*same, False]):
            if not equal:
                if place + period - start >= max(min_length, min_repeats * period):
                    loops.setdefault((start, place + period), Loop(start, place + period, period))
                start = place + 1
    return sorted(loops.values(), key=lambda loop: (loop.start, loop.end))


def random_text(rng: random.Random, length: int, letters: str) -> str:
    """Random letters with repeated stretches among them, cut at `length`."""
    text = ""
    while len(text) < length:
        unit = "".join(rng.choices(letters, k=rng.randint(1, 14)))
        text += (unit * 9)[: rng.randint(1, 70)] if rng.random() < 0.5 else unit
    return text[:length]
