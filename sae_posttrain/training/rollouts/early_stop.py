"""End the chosen rows of one batched `generate` call once they have looped for long enough."""

# R rows, S sequence

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import StoppingCriteria, StoppingCriteriaList

from ...metrics.loops import LoopSettings
from ...metrics.search import as_text, loop_at_end
from ...residual import unwrap
from ...steering.generate import replaced


class LoopCriterion(StoppingCriteria):
    """Ends a chosen row as soon as its completion ends in a loop.

    Args:
        rows: for each row of the call, whether it may be ended.
        loops: what counts as a loop, in token ids.
        final: tokens that are generated only when a row is at its end: end-of-sequence and padding tokens.
        lengths: filled while `generate` runs: row → tokens of its completion, for each row that was ended.
    """

    def __init__(self, rows: Sequence[bool], loops: LoopSettings, final: set[int], lengths: dict[int, int]) -> None:
        self.size = len(rows)
        self.texts = {row: "" for row, chosen in enumerate(rows) if chosen}
        self.loops, self.final, self.lengths = loops, final, lengths

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if len(input_ids) != self.size:
            raise ValueError(
                f"rows has {self.size} entries, but generate has {len(input_ids)} rows; give one entry per row."
            )
        ended_R = torch.zeros(len(input_ids), dtype=torch.bool)
        newest = input_ids[list(self.texts), -1].tolist()
        for row, token in zip(list(self.texts), newest, strict=True):
            if token in self.final:  # else the padding behind a finished row would be a loop
                del self.texts[row]
                continue
            # Only the new token is converted. To convert the whole completion at every token takes quadratic time.
            self.texts[row] += as_text([token])
            if loop_at_end(self.texts[row], self.loops.min_repeats, self.loops.min_tokens):
                ended_R[row] = True
                self.lengths[row] = len(self.texts.pop(row))
        return ended_R.to(input_ids.device)


@contextmanager
def loops_ended(model: nn.Module, rows: Sequence[bool], loops: LoopSettings) -> Iterator[dict[int, int]]:
    """End these rows of the `model.generate(...)` inside the block as soon as their completion ends in a loop.

    The other rows get exactly the tokens that they would get without this block. `generate` fills an ended row with
    padding, which may be the end-of-sequence token, so cut the completion at the length that this block gives.

    Args:
        model: the model, or a wrapper around it.
        rows: for each row of the call, whether it may be ended.
        loops: what counts as a loop; `min_repeats` and `min_tokens` apply.

    Yields:
        row → tokens of its completion, for the rows that were ended. It is filled while `generate` runs.

    Raises:
        ValueError: `generate` has another number of rows than `rows`.

    Example:
        >>> with loops_ended(model, [True, False], LoopSettings(min_tokens=200)) as lengths:
        ...     generated = model.generate(**two_prompts, max_new_tokens=2000)
    """
    base, lengths = unwrap(model), dict[int, int]()
    with replaced(base, "generate", _with_criterion(base, rows, loops, lengths)):
        yield lengths


def _with_criterion(
    model: Any, rows: Sequence[bool], loops: LoopSettings, lengths: dict[int, int]
) -> Callable[..., Any]:
    model_generate = model.generate

    @functools.wraps(model_generate)
    def ending(*args: Any, **kwargs: Any) -> Any:
        config = kwargs.get("generation_config") or model.generation_config
        final = _ids(kwargs.get("eos_token_id", config.eos_token_id)) | _ids(
            kwargs.get("pad_token_id", config.pad_token_id)
        )
        criterion = LoopCriterion(rows, loops, final, lengths)
        criteria = StoppingCriteriaList([*(kwargs.pop("stopping_criteria", None) or []), criterion])
        return model_generate(*args, stopping_criteria=criteria, **kwargs)

    return ending


def _ids(given: int | Sequence[int] | None) -> set[int]:
    if given is None:
        return set()
    return {given} if isinstance(given, int) else {int(one) for one in given}
