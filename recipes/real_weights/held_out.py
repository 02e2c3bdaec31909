"""A model's logits on held-out answers, given their prompts."""

# B batch, S sequence, D width, N positions of an answer, V vocabulary

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sae_posttrain.expected.distributions import hidden_states, logits_of


def answer_logits(
    model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]], max_tokens: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Of the completion of each row, given its prompt: the logits [N, V] and the token ids [N] that they predict."""
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        prompts = [tokenizer(row["prompt"])["input_ids"] for row in batch]
        answers = [tokenizer(row["completion"], add_special_tokens=False)["input_ids"][:max_tokens] for row in batch]
        hidden_BSD = hidden_states(model, [p + a for p, a in zip(prompts, answers, strict=True)])
        for prompt, answer, hidden_SD in zip(prompts, answers, hidden_BSD, strict=True):
            places_ND = hidden_SD[len(prompt) - 1 : len(prompt) + len(answer) - 1]
            yield torch.cat(list(logits_of(model, places_ND))), torch.tensor(answer)
