"""How the time to find loops grows with the length of a response, against the plain search through every period.

    python benchmarks/repetition_speed.py

Both searches run in turn on the same made-up responses and must give the same answers. Times are of the processor.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from itertools import accumulate
from statistics import median
from typing import Any

import _rows
from _rows import Row

from sae_posttrain.metrics import Loop, find_loop, looped_share, repetition_rate

LENGTHS = (2_000, 8_000, 32_000, 128_000, 512_000)
PLAIN_UP_TO = 32_000  # beyond that the plain search takes minutes
ROUNDS = 5
RESPONSES = 200


def plain_search(text: str, min_repeats: int = 4, min_length: int = 100) -> Loop | None:
    """Every period in turn; the first of those whose loop is longest."""
    longest = None
    for period in range(1, len(text) // min_repeats + 1):
        tail = text[-max(min_length, min_repeats * period) :]
        if len(tail) >= min_length and tail[period:] == tail[:-period]:
            start = len(text) - len(tail)
            while start and text[start - 1] == text[start - 1 + period]:
                start -= 1
            if longest is None or start < longest.start:
                longest = Loop(start, len(text), period)
    return longest


def made_up(rng: random.Random, length: int, looping: bool) -> str:
    """Words by Zipf's law, the second half a loop of up to 200 characters if asked."""
    words = ["".join(rng.choices("etaoinshrdlucm", k=rng.randint(1, 10))) for _ in range(5_000)]
    weights = list(accumulate(1 / rank for rank in range(1, len(words) + 1)))
    text = " ".join(rng.choices(words, cum_weights=weights, k=length // 3))[:length]
    if looping:
        half, period = length // 2, rng.randint(1, 200)
        text = text[:half] + (text[half - period : half] * (half // period + 1))[: length - half]
    return text


def seconds(run: Callable[[Any], object], argument: object) -> float:
    started = time.process_time()
    run(argument)
    return time.process_time() - started


def growth(rng: random.Random, looping: bool) -> list[Row]:
    kind = "ends in a loop" if looping else "no loop"
    searches: dict[str, Callable[[str], object]] = {
        "find_loop": find_loop,
        "looped_share": looped_share,
        "plain search": plain_search,
    }
    rows = []
    for length in LENGTHS:
        times: dict[str, list[float]] = {name: [] for name in searches}
        for _ in range(ROUNDS):
            text = made_up(rng, length, looping)
            for name, search in searches.items():
                if name != "plain search" or length <= PLAIN_UP_TO:
                    times[name].append(seconds(search, text))
            if length <= PLAIN_UP_TO and find_loop(text) != plain_search(text):
                raise RuntimeError(f"the searches disagree on {text!r}")
        rows += [
            Row(f"{length} characters, {kind}", name, round(1000 * median(taken), 3), "ms")
            for name, taken in times.items()
            if taken
        ]
    return rows


def whole_report(rng: random.Random) -> list[Row]:
    texts = [made_up(rng, 8_000, looping=index % 10 == 0) for index in range(RESPONSES)]
    ids = [rng.choices(range(5_000), k=2_000) for _ in range(RESPONSES)]
    scale = 10_000 / RESPONSES
    return [
        Row(
            "10000 responses of 8000 characters",
            "repetition_rate",
            round(scale * seconds(repetition_rate, texts), 1),
            "s",
        ),
        Row("10000 responses of 2000 ids", "repetition_rate", round(scale * seconds(repetition_rate, ids), 1), "s"),
    ]


def main() -> None:
    rng = random.Random(0)
    rows = [*growth(rng, looping=False), *growth(rng, looping=True), *whole_report(rng)]
    for row in rows:
        print(f"{row.case:42}{row.measure:18}{row.value:12} {row.unit}")
    print(_rows.write("repetition_speed", rows))


if __name__ == "__main__":
    main()
