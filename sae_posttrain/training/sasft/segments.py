"""The segments of a batch, and the languages that a dataset's column or a user's function gives them.

A segment is what was one example before batching: a row, or a stretch of a packed row.
"""

# B batch, S sequence

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...languages import LANGUAGES, get_language

LANGUAGE_IDS = "language_ids"
"""Name of the batch entry `(B, S)` and of the per-token dataset column that carry languages."""
UNKNOWN = -1
CODES: tuple[str, ...] = tuple(sorted(LANGUAGES))

LanguageOf = Callable[[Mapping[str, Tensor]], Sequence[str | None]]


def language_id(code: str | None) -> int:
    """Row of a language in the tables; UNKNOWN for a missing code.

    Raises:
        ValueError: a code that is no language's.
    """
    if code is None or code == "":
        return UNKNOWN
    if not isinstance(code, str):
        raise ValueError(f"Expected a language code such as 'zh', not {code!r} ({type(code).__name__}).")
    return CODES.index(get_language(code).code)


def language_in(column: str, code: Any) -> int:
    """`language_id` of a value in a dataset's column, which an error names."""
    try:
        return language_id(code)
    except ValueError as error:
        raise ValueError(f"Column {column!r}: {error} Rename the column if it is about something else.") from error


def columns_of(dataset: Any) -> tuple[str, ...]:
    """Names of a dataset's columns; a streamed one may only tell by its first row."""
    names = getattr(dataset, "column_names", None)
    if names is None and hasattr(dataset, "map"):
        names = next(iter(dataset), {})
    return tuple(names or ())


def segments_of(inputs: Mapping[str, Tensor]) -> Tensor:
    """Number the segments of a batch in order: `(B, S)`, from 0. Each row starts one, and so does each position 0."""
    starts_BS = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    if "position_ids" in inputs:
        position_BS = inputs["position_ids"]
        starts_BS = (position_BS if position_BS.dim() == 2 else position_BS[0]) == 0  # multimodal: one plane per axis
        starts_BS = starts_BS.expand_as(inputs["input_ids"]).clone()
    starts_BS[:, 0] = True
    return starts_BS.flatten().cumsum(0).view_as(starts_BS) - 1


def apply_language_of(language_of: LanguageOf, inputs: Mapping[str, Tensor], segment_BS: Tensor) -> Tensor:
    """`(B, S)` from a user's function, which gives one code or None per segment.

    Raises:
        ValueError: it gave another number of codes.
    """
    codes = language_of(inputs)
    count = int(segment_BS.max()) + 1
    if len(codes) != count:
        raise ValueError(
            f"language_of gave {len(codes)} languages for a batch of {count} segments; return one code, or None, per "
            "row, or per stretch from one position_ids == 0 to the next when examples are packed."
        )
    return torch.tensor([language_id(code) for code in codes], device=segment_BS.device)[segment_BS]


class LanguageCollator:
    """A data collator that also carries the dataset's languages into the batch, as `language_ids` `(B, S)`.

    Args:
        inner: the trainer's own collator; it never sees the extra column.
        column: a column of language codes, or of per-token language ids when examples were packed.
    """

    def __init__(self, inner: Callable[[list[dict[str, Any]]], dict[str, Any]], column: str) -> None:
        self.inner = inner
        self.column = column

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.inner([{k: v for k, v in example.items() if k != self.column} for example in examples])
        if not any(self.column in example for example in examples):
            return batch
        language_BS = torch.full(batch["input_ids"].shape, UNKNOWN)
        if len(language_BS) != len(examples):  # padding-free: the examples became one row
            rows = [torch.cat([self._per_token(example, len(example["input_ids"])) for example in examples])]
        else:
            # One code holds for the whole row, wherever the collator put its padding; ids per token are TRL's packing.
            rows = [self._per_token(example, language_BS.shape[1]) for example in examples]
        for row, ids_S in enumerate(rows):
            language_BS[row, : len(ids_S)] = ids_S
        return {**batch, LANGUAGE_IDS: language_BS}

    def _per_token(self, example: Mapping[str, Any], length: int) -> Tensor:
        """One language's id for `length` tokens, or the ids that are given per token."""
        if self.column == LANGUAGE_IDS:
            return torch.as_tensor(example[self.column])
        return torch.full((length,), language_in(self.column, example.get(self.column)))
