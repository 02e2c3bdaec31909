"""What it costs to steer one answer of a group, against a plain group and against making that answer once more.

    python benchmarks/steered_generation.py

A small random Qwen3 on the CPU: the smaller the model, the more what surrounds it weighs. The ways take turns in one
process, in another order each round, and every time is compared with the plain group's of its own round. What steering
adds is smaller than the noise of that, so it is also timed alone, in a decoder that computes nothing.
"""

# D model width

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import _rows
import torch
from _rows import Row
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from sae_posttrain import steer

GROUP, PROMPT, NEW, ROUNDS = 8, 64, 128, 21
BLOCKS, D, VOCABULARY = 4, 256, 4096
BARE_STEPS = 1000
ONE = torch.arange(GROUP) == 0
PLAIN = "plain group"
QUARTILES = ("lower quartile", "median", "upper quartile")


def make_model() -> Any:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=D,
        intermediate_size=4 * D,
        num_hidden_layers=BLOCKS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
    )
    return Qwen3ForCausalLM(config).eval()


def ways(model: Any) -> dict[str, Callable[[], None]]:
    """Each makes the group of answers to one prompt; all but the plain ones with the first of them steered."""
    ids = torch.randint(1, VOCABULARY, (1, PROMPT))

    def generate(rows: int, layers: int = 0, mask: torch.Tensor | None = None) -> None:
        directions = {BLOCKS - 1 - layer: torch.randn(D) for layer in range(layers)}
        with steer(model, directions, rows=mask) if layers else nullcontext():
            model.generate(ids.expand(rows, -1), max_new_tokens=NEW, do_sample=True, pad_token_id=0)

    def again() -> None:
        generate(GROUP)
        generate(1, layers=1)

    return {
        PLAIN: lambda: generate(GROUP),
        "plain group, a second time": lambda: generate(GROUP),
        "one row steered, one layer": lambda: generate(GROUP, 1, ONE),
        "one row steered, every layer": lambda: generate(GROUP, BLOCKS, ONE),
        "plain group, then one row again": again,
    }


class Bare(nn.Module):
    """What remains of a model without its computation: steps, blocks and a cache."""

    config = Qwen3Config(hidden_size=D)
    generation_config = None

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Identity() for _ in range(BLOCKS))

    def forward(self, residual: Tensor, past_key_values: Any) -> None:
        for block in self.layers:
            residual = block(residual)

    @torch.no_grad()
    def generate(self, input_ids: Tensor) -> None:
        cache, residual = SimpleNamespace(get_seq_length=lambda: PROMPT), torch.zeros(GROUP, 1, D)
        for _ in range(BARE_STEPS):
            self(residual, past_key_values=cache)


def steering_alone(layers: int) -> float:
    """Seconds that steering one row adds to a step."""
    model, ids = Bare(), torch.ones(GROUP, PROMPT)
    directions = {layer: torch.randn(D) for layer in range(layers)}
    plain, steered = [], []
    for _ in range(ROUNDS):
        plain.append(seconds(lambda: model.generate(ids)))
        with steer(model, directions, rows=ONE):
            steered.append(seconds(lambda: model.generate(ids)))
    return (statistics.median(steered) - statistics.median(plain)) / BARE_STEPS


def seconds(way: Callable[[], None]) -> float:
    """Processor time; on the one thread used here that is the time it takes, less what other programs take."""
    started = time.process_time()
    way()
    return time.process_time() - started


def main() -> None:
    torch.set_num_threads(1)
    all_ways = ways(make_model())
    for way in all_ways.values():
        way()
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        order = random.sample(sorted(all_ways), len(all_ways))
        rounds.append({name: seconds(all_ways[name]) for name in order})
    plain = statistics.median(times[PLAIN] for times in rounds)
    rows = [Row(PLAIN, "time, median", round(plain, 3), "s")]
    for name in list(all_ways)[1:]:
        ratios = [times[name] / times[PLAIN] for times in rounds]
        for quartile, value in zip(QUARTILES, statistics.quantiles(ratios, n=4), strict=True):
            rows.append(Row(name, f"times the plain group, {quartile}", round(value, 4), "ratio"))
    for layers, name in ((1, "steering alone, one layer"), (BLOCKS, "steering alone, every layer")):
        added = steering_alone(layers)
        rows.append(Row(name, "added to a step", round(added * 1e6, 1), "µs"))
        rows.append(Row(name, "share of the plain group's step", round(added * NEW / plain, 5), "ratio"))
    for row in rows:
        print(f"{row.case:34}{row.measure:40}{row.value:10} {row.unit}")
    print(_rows.write("steered_generation", rows))


if __name__ == "__main__":
    main()
