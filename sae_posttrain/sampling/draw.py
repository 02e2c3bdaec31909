"""Draw each row's token with random numbers of its own, so that a response does not depend on its batch."""

# B batch, T generated length, V vocabulary

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

_LARGEST = 1 - 2**-24  # of the numbers below 1, in float32


def uniform_numbers(seeds: Sequence[int], steps: int) -> Tensor:
    """Random numbers from 0 to below 1 for each response, `(B, T)` in float32: the same for the same seed.

    Args:
        seeds: one for each response.
        steps: numbers per response, one for each token.
    """
    rows = [torch.rand(steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows).clamp_(max=_LARGEST)


class Draw(LogitsProcessor):
    """Draws a token for each row, and gives it an infinite score, so that a greedy choice takes it.

    `torch.multinomial`, which `generate` samples with, takes its random numbers for the whole batch from one generator:
    a row's tokens then depend on the other rows. This takes one number per row and step, and finds the token at which
    the cumulative probability passes it.

    Args:
        uniform_BT: numbers from 0 to below 1, `(B, T)`, on the device of the scores.
        prompt_length: positions of the padded prompts, from which the step follows.
    """

    def __init__(self, uniform_BT: Tensor, prompt_length: int) -> None:
        self.uniform_BT, self.prompt_length = uniform_BT, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        uniform_B1 = self.uniform_BT[:, input_ids.shape[1] - self.prompt_length, None]
        return scores.scatter(1, drawn(scores, uniform_B1.to(scores.device)), torch.inf)


def drawn(logits_BV: Tensor, uniform_B1: Tensor) -> Tensor:
    """The tokens drawn from the softmax of logits, `(B, 1)`; never one whose logit is minus infinity."""
    cumulative_BV = logits_BV.softmax(-1).cumsum(-1)
    total_B1 = cumulative_BV[:, -1:]
    # Rounding may make the product as large as the total, behind which there is no token.
    sought_B1 = torch.minimum(uniform_B1 * total_B1, torch.nextafter(total_B1, torch.zeros_like(total_B1)))
    return torch.searchsorted(cumulative_BV, sought_B1, right=True)
