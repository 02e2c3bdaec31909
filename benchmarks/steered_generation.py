"""What it costs to steer one answer of a group: in place, or by making it again, or by making all of them again.

    python benchmarks/steered_generation.py [--quick] [--device cuda]

Random Qwen3 models whose answers all have one length, in float32 on one thread, or in bfloat16 on a GPU. The smaller
the model, the more what surrounds it weighs. The answers left alone are first checked to be those of the plain group.

Continuous batching, which transformers runs on a CPU too, is never steered in place, since it mixes the rows in one
forward; as in the trainers, answers are made again, densely. Each call collects garbage twice, some 0.3 s here however
short the answers. What it waits for its thread, 0.1 s, is no processor time and does not count on a CPU.

What steering adds to a step is smaller than the noise of whole generations, so it is also timed alone, in a decoder
that computes nothing.
"""

# D model width

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import _rows
import torch
from _models import GROUP, PROMPT, SIZES, features, group_shape, qwen3
from _timing import Timing, Way, interleaved, table
from torch import Tensor, nn
from transformers import ContinuousBatchingConfig, GenerationConfig

from sae_posttrain import FeatureSet, steer

# Size → tokens of an answer, rounds of dense generation, of continuous batching.
CASES = {"0.4M": (64, 61, 5), "4M": (64, 25, 5), "40M": (16, 13, 5)}
QUICK = {"0.4M": (16, 11, 3)}
DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}
ALPHA = 4.0
BARE_STEPS, BARE_ROUNDS = 1000, 21
ONE = (True,) + (False,) * (GROUP - 1)
PAGE = 16
ALONE = "steering alone"


class Group:
    """Answers to one prompt, made in one way or another."""

    def __init__(self, size: str, length: int, device: str) -> None:
        width, blocks, vocabulary = SIZES[size]
        self.length = length
        self.model = qwen3(size).to(device, DTYPES[device]).eval()
        self.middle = features(width, blocks, [blocks // 2], 1, "repetition")
        self.everywhere = features(width, blocks, range(blocks), 1, "repetition")
        self.prompt = torch.randint(1, vocabulary, (1, PROMPT), device=device)
        self.sampling = {"max_new_tokens": length, "do_sample": True, "top_k": 0, "pad_token_id": 0}

    def dense(self, rows: int = GROUP) -> Tensor:
        ids: Tensor = self.model.generate(self.prompt.expand(rows, -1), GenerationConfig(**self.sampling))
        return ids

    def steered(self, rows: Sequence[bool], layers: FeatureSet) -> Tensor:
        with steer(self.model, layers, alpha=ALPHA, rows=rows):
            return self.dense(len(rows))

    def again(self, rows: int) -> Tensor:
        """So many answers, all of them steered, for those there are."""
        return self.steered((True,) * rows, self.middle)

    def continuous(self) -> list[list[int]]:
        # By itself it takes most of the memory for its cache, and fills it with zeros in each call.
        pages = GROUP * -(-(PROMPT + self.length) // PAGE)
        memory = ContinuousBatchingConfig(page_size=PAGE, num_blocks=2 * pages, max_batch_tokens=GROUP * PROMPT, seed=0)
        made = self.model.generate_batch(
            self.prompt.expand(GROUP, -1).tolist(),
            generation_config=GenerationConfig(**self.sampling, eos_token_id=-1),  # none
            continuous_batching_config=memory,
            progress_bar=False,
        )
        answers = [answer.generated_tokens for answer in made.values()]
        lengths = [len(ids) for ids in answers]
        if lengths != [self.length] * GROUP:  # what goes wrong in its thread is logged, and not raised
            raise RuntimeError(f"Continuous batching made answers of {lengths} tokens, not {GROUP} of {self.length}.")
        return answers


def dense_ways(group: Group) -> dict[str, Way]:
    return {
        "plain group": group.dense,
        "plain group, a second time": group.dense,
        "one row steered, one layer": lambda: group.steered(ONE, group.middle),
        "one row steered, every layer": lambda: group.steered(ONE, group.everywhere),
        "plain group, then one row again": lambda: (group.dense(), group.again(1)),
        "plain group, then all rows again": lambda: (group.dense(), group.again(GROUP)),
    }


def continuous_ways(group: Group) -> dict[str, Way]:
    return {
        "continuous batching": group.continuous,
        "continuous batching, then one row again": lambda: (group.continuous(), group.again(1)),
        "continuous batching, then all rows again": lambda: (group.continuous(), group.again(GROUP)),
    }


def check(plain: Way, steered: Way) -> None:
    """Under one seed the first answer is another one, and the rest are the same."""
    answers = []
    for way in (plain, steered):
        torch.manual_seed(0)
        answers.append(way())
    same = [torch.equal(*pair) for pair in zip(*answers, strict=True)]
    due = [not first for first in ONE]
    assert same == due, f"Which answers are the plain group's: {same}; due is {due}."


class Bare(nn.Module):
    """What remains of a model without its computation: steps, blocks and a cache."""

    generation_config = None

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.config = model.config
        self.layers = nn.ModuleList(nn.Identity() for _ in range(model.config.num_hidden_layers))
        self.residual_B1D = torch.zeros(GROUP, 1, self.config.hidden_size, dtype=model.dtype, device=model.device)

    def forward(self, residual_B1D: Tensor, past_key_values: Any) -> None:
        for block in self.layers:
            residual_B1D = block(residual_B1D)

    @torch.no_grad()
    def generate(self, input_ids: Tensor) -> None:
        cache = SimpleNamespace(get_seq_length=lambda: PROMPT)
        for _ in range(BARE_STEPS):
            self(self.residual_B1D, past_key_values=cache)


def bare_ways(group: Group) -> dict[str, Way]:
    bare, ids = Bare(group.model), torch.ones(GROUP, PROMPT)

    def steered(layers: FeatureSet) -> None:
        with steer(bare, layers, alpha=ALPHA, rows=ONE):
            bare.generate(ids)

    return {
        "no computation": lambda: bare.generate(ids),
        "no computation, one row steered, one layer": lambda: steered(group.middle),
        "no computation, one row steered, every layer": lambda: steered(group.everywhere),
    }


def measure(size: str, device: str, length: int, rounds: int, continuous_rounds: int) -> list[Timing]:
    """One size of model, in every way."""
    group = Group(size, length, device)
    ways = dense_ways(group)
    for name in ("one row steered, one layer", "one row steered, every layer"):
        check(ways["plain group"], ways[name])
    timed = partial(interleaved, dtype=str(DTYPES[device]).removeprefix("torch."), device=device)
    answers = partial(timed, size=group_shape(size, length), work=(GROUP * length, "tokens"))
    dense = answers("dense", ways, rounds=rounds)
    continuous = answers("continuous", continuous_ways(group), rounds=continuous_rounds)
    steps = f"{size}'s {SIZES[size][1]} blocks, {BARE_STEPS} steps"
    bare = timed(ALONE, bare_ways(group), rounds=BARE_ROUNDS, size=steps, work=(BARE_STEPS, "steps"))
    return [*dense, *continuous, *bare]


def steering_alone(timings: Sequence[Timing], length: int) -> str:
    """What steering adds to a step, as a sentence for each way; a group's step is that of its whole generation."""
    group = next(one for one in timings if one.variant == "plain group")
    bare = [one for one in timings if one.name == ALONE]
    lines = []
    for steered in bare[1:]:
        added = (steered.p50 - bare[0].p50) / BARE_STEPS
        what = steered.variant.removeprefix("no computation, ")
        lines.append(f"{group.size}, {what}: adds {added * 1e6:.1f} µs to a step, {added * length / group.p50:.2%}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the smallest model and few rounds; writes no file")
    parser.add_argument("--device", choices=DTYPES, default="cpu", help="cuda: in bfloat16; writes a file of its own")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("There is no GPU that torch can use; leave out --device cuda.")
    torch.set_num_threads(1)
    timings: list[Timing] = []
    alone = []
    for size, (length, rounds, continuous_rounds) in (QUICK if args.quick else CASES).items():
        made = measure(size, args.device, length, rounds, continuous_rounds)
        alone.append(steering_alone(made, length))
        timings += made
    print(table(timings), *alone, sep="\n")
    if not args.quick:
        print(_rows.write("steered_generation" + ("_cuda" if args.device == "cuda" else ""), timings))


if __name__ == "__main__":
    main()
