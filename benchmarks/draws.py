"""What random numbers of its own cost a response: one draw per row beside `torch.multinomial`, which `generate` uses.

    python benchmarks/draws.py

At each step of sampling, `torch.multinomial` draws a random number for every token of the vocabulary, from one
generator for the whole batch. `Draw` takes one number per row, and finds the token by cumulative probabilities.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import _rows
import torch
from _timing import Timing, interleaved, table

from sae_posttrain.sampling.draw import Draw, uniform_numbers

CASES = [(49_152, 8), (151_936, 8), (151_936, 64), (262_144, 8)]
STEPS = 256


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    timings: list[Timing] = []
    for vocabulary, rows in CASES:
        logits_BV = 4 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(0))
        ids, draw = torch.zeros(rows, 10, dtype=torch.long), Draw(uniform_numbers(range(rows), STEPS), 8)
        ways: dict[str, Callable[[], object]] = {
            "softmax and torch.multinomial": lambda: torch.multinomial(logits_BV.softmax(-1), 1),  # noqa: B023
            "a draw of its own, and the greedy choice": lambda: draw(ids, logits_BV).argmax(-1),  # noqa: B023
        }
        timings += interleaved("draws", ways, rounds=args.rounds, size=f"{rows} x {vocabulary}")
    timings += interleaved(
        "numbers before a batch",
        {"64 responses of 2048 tokens": lambda: uniform_numbers(range(64), 2048)},
        rounds=args.rounds,
    )
    print(table(timings))
    print(_rows.write("draws", timings))


if __name__ == "__main__":
    main()
