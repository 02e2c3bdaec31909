"""Texts that end a response: while transformers generates, and where the response is then cut."""

# B batch, S sequence

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from .response import decode


class StopTexts(StoppingCriteria):
    """Ends each row as soon as what it generated contains one of the texts.

    transformers' own criterion also finds a text that begins in the prompt.

    Args:
        tokenizer: the model's.
        stop: the texts.
        prompt_length: positions of the padded prompts.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], prompt_length: int) -> None:
        self.tokenizer, self.stop, self.prompt_length = tokenizer, tuple(stop), prompt_length
        # A character takes at most four tokens of bytes; the first of the tail may be the end of one.
        self.tail = 4 * max(map(len, self.stop)) + 4

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        new_BS = input_ids[:, max(self.prompt_length, input_ids.shape[1] - self.tail) :]
        found = [_contains(decode(self.tokenizer, tuple(row)), self.stop) for row in new_BS.tolist()]
        return torch.tensor(found, device=input_ids.device)


def length_to_stop(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], stop: Sequence[str]
) -> tuple[int, str] | None:
    """How many tokens a response has up to the first stop text, and its text before it; None without any."""
    whole = decode(tokenizer, tuple(ids)) if stop else ""
    if not _contains(whole, stop):
        return None
    length = bisect_left(
        range(len(ids) + 1), True, key=lambda end: _contains(decode(tokenizer, tuple(ids[:end])), stop)
    )
    return length, whole[: min(whole.index(text) for text in stop if text in whole)]


def _contains(text: str, stop: Sequence[str]) -> bool:
    return any(one in text for one in stop)
