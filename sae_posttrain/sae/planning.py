"""Plan the training of SAEs: read texts ahead, choose settings for the texts and the model, and estimate the time."""

# N tokens of a batch, D model width

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

READ_AHEAD = 2**25  # tokens, which take 134 MB as integers
STEPS = 250  # by default the batch is halved until there are at least this many steps
LARGEST_BATCH = 32
FIRINGS = 1000  # by default the dictionary is halved until a feature fires this often, on average
PRE_ACTIVATIONS = 2**28  # pre-activations held in memory at once: 1 GB in float32


@dataclass(frozen=True)
class TrainingPlan:
    """The settings of a training run and its amount of text. `str()` describes it in one sentence."""

    layers: tuple[int, ...]
    d_sae: int
    k: int
    batch_size: int
    max_length: int
    steps: int

    @property
    def tokens(self) -> int:
        return self.steps * self.batch_size * self.max_length

    @property
    def micro_steps(self) -> int:
        """The number of parts that a batch is divided into, so that the pre-activations of a part fit in memory."""
        return math.ceil(self.batch_size * self.max_length * self.d_sae / PRE_ACTIVATIONS)

    def __str__(self) -> str:
        blocks = f"block {self.layers[0]}" if len(self.layers) == 1 else f"blocks {' '.join(map(str, self.layers))}"
        return (
            f"Training SAEs of {self.d_sae:,} features, {self.k} active per token, on {blocks}: {self.tokens:,} "
            f"tokens, {self.steps:,} steps of {self.batch_size} rows of {self.max_length}."
        )


def plan_training(
    width: int,
    layers: Sequence[int],
    rows: int,
    *,
    max_length: int,
    d_sae: int | None,
    k: int | None,
    batch_size: int | None,
) -> TrainingPlan:
    """Choose settings for the model and the texts. Settings that are given are kept.

    Args:
        width: width of the model's residual.
        layers: 0-based decoder blocks.
        rows: number of rows of `max_length` tokens in the texts.
        max_length: tokens per row.
        d_sae: number of features. Default: 16 times the width, halved (not below twice the width) until a feature
            fires 1,000 times on average.
        k: active features per token. Default: an eighth of the width, between 8 and 50.
        batch_size: rows per step. Default: 32, halved until there are 250 steps.
    """
    k = min(50, max(8, width // 8)) if k is None else k
    if batch_size is None:
        batch_size = LARGEST_BATCH
        while batch_size > 1 and rows // batch_size < STEPS:
            batch_size //= 2
    steps = rows // batch_size
    if d_sae is None:
        d_sae = 16 * width
        while d_sae > 2 * width and steps * batch_size * max_length * k / d_sae < FIRINGS:
            d_sae //= 2
    return TrainingPlan(tuple(layers), d_sae, k, batch_size, max_length, steps)


class ReadRows(IterableDataset[dict[str, Tensor]]):
    """Rows of tokens, of which many are read ahead, so that the number of rows of short texts is known.

    Args:
        rows: an iterator over rows, such as `PackedRows`.
        most: largest number of rows to read.
        max_length: tokens per row.
    """

    def __init__(self, rows: Iterator[dict[str, Tensor]], most: int, max_length: int) -> None:
        ahead = min(most, max(1, READ_AHEAD // max_length))
        self.ahead = [row["input_ids"].int() for row in islice(rows, ahead)]
        self.rest = rows
        # If not all rows could be read ahead, the texts may still end before `most`.
        self.exact = len(self.ahead) < ahead or ahead == most
        self.count = len(self.ahead) if self.exact else most

    def __len__(self) -> int:  # sparsify needs it for its progress bar
        return self.count

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for row in self.ahead[: self.count]:
            yield {"input_ids": row.long()}
        yield from islice(self.rest, max(0, self.count - len(self.ahead)))


def seconds_per_step(model: Any, plan: TrainingPlan, rows: Sequence[Tensor], coder: Any) -> float:
    """Time one training step in seconds: the model's forward pass, and an SAE's forward and backward pass.

    Args:
        model: the model whose residuals are read.
        plan: the plan of the training.
        rows: token ids of at least one row.
        coder: one of sparsify's coders, of the plan's size. Its gradients are deleted afterwards.
    """
    device = next(model.parameters()).device
    batch = torch.stack([rows[place % len(rows)].long() for place in range(plan.batch_size)]).to(device)
    part = max(1, plan.batch_size * plan.max_length // plan.micro_steps)
    residual_ND = torch.randn(part, coder.d_in, device=device)
    took = 0.0
    for _ in range(2):  # the first one warms up
        began = time.monotonic()
        with torch.no_grad():
            model(batch)
        _wait(device)
        forward = time.monotonic() - began
        began = time.monotonic()
        coder(residual_ND).fvu.backward()
        _wait(device)
        took = forward + len(plan.layers) * plan.micro_steps * (time.monotonic() - began)
    coder.zero_grad(set_to_none=True)
    return took


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
