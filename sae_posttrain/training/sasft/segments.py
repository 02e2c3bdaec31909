"""The segments of a batch, and their languages from a dataset column or a user's function.

A segment is one example of the dataset: a whole row, or a part of a packed row.
"""

# B batch, S sequence

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from ...languages import LANGUAGES, get_language, stand_ins

LANGUAGE_IDS = "language_ids"
"""Name of the batch entry `(B, S)`, and of the per-token dataset column, with the language ids."""
UNKNOWN = -1
CODES: tuple[str, ...] = tuple(sorted(LANGUAGES))
OTHER_LABELS = "(other labels)"
"""Stands for every label without a baseline, in training by label."""

LanguageOf = Callable[[Mapping[str, Any]], Sequence[str | None]]
"""A user's function from the batch (such as `input_ids` and `labels`, `(B, S)`, or ms-swift's `channel`) to one
language code, or None, per segment, row by row."""


def language_id(code: str | None) -> int:
    """The row of a language in the tables; UNKNOWN if the code is missing.

    Raises:
        ValueError: the code is not a language's.
    """
    if code is None or code == "":
        return UNKNOWN
    if not isinstance(code, str):
        raise ValueError(f"Expected a language code such as 'zh', not {code!r} ({type(code).__name__}).")
    return CODES.index(get_language(code).code)


@dataclass(frozen=True)
class RowGroups:
    """What rows are told apart by: their language, or any label.

    Args:
        names: of the groups, in the order of the tables' rows.
        are_languages: whether they are the languages; else `names` are labels, and one more stands for all others.
    """

    names: tuple[str, ...] = CODES
    are_languages: bool = True

    @classmethod
    def of_labels(cls, labels: Sequence[str]) -> RowGroups:
        """The groups of rows with these labels, and one for all other labels."""
        return cls((*labels, OTHER_LABELS), are_languages=False)

    def id_of(self, value: Any) -> int:
        """Row of a group in the tables; UNKNOWN for a missing value.

        Raises:
            ValueError: a code that is no language's, or a label that is no text.
        """
        if self.are_languages:
            return language_id(value)
        if value is None or value == "":
            return UNKNOWN
        if not isinstance(value, str):
            raise ValueError(f"Expected a label such as {self.names[0]!r}, not {value!r} ({type(value).__name__}).")
        return self.names.index(value) if value in self.names else len(self.names) - 1

    def lenders(self, name: str) -> tuple[str, ...]:
        """The groups whose baseline may serve for this one, itself first."""
        return (name, *stand_ins(name)) if self.are_languages else (name,)


BY_LANGUAGE = RowGroups()


def group_in(column: str, value: Any, groups: RowGroups = BY_LANGUAGE) -> int:
    """`RowGroups.id_of` of a value in a dataset column. An error message names the column."""
    try:
        return groups.id_of(value)
    except ValueError as error:
        raise ValueError(f"Column {column!r}: {error} Rename the column if it is about something else.") from error


def has_rows(dataset: Any) -> bool:
    """Whether rows can be accessed by index."""
    return not isinstance(dataset, IterableDataset) and all(hasattr(dataset, f"__{n}__") for n in ("getitem", "len"))


def columns_of(dataset: Any) -> tuple[str, ...]:
    """The names of a dataset's columns. For a stream or a user's own class, they may have to be read from a row."""
    names = getattr(dataset, "column_names", None)
    if names is None and hasattr(dataset, "map"):
        names = next(iter(dataset), {})
    elif names is None and has_rows(dataset) and len(dataset):
        with _same_random_numbers():
            row = dataset[0]
        names = row if isinstance(row, Mapping) else ()
    return tuple(names or ())


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Restore the random states on exit, because a dataset may draw random numbers, for augmentation for example."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(of_python)
    np.random.set_state(of_numpy)


def segments_of(inputs: Mapping[str, Any]) -> Tensor:
    """Number the segments of a batch in order: `(B, S)`, from 0.

    A segment starts at the start of each row, at each position 0, and at each new number in an attention mask that
    numbers its examples (Axolotl's 1, 1, 2, 2, 2).
    """
    starts_BS = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    if "position_ids" in inputs:
        position_BS = inputs["position_ids"]
        starts_BS = (position_BS if position_BS.dim() == 2 else position_BS[0]) == 0  # multimodal: a plane per axis
        starts_BS = starts_BS.expand_as(inputs["input_ids"]).clone()
    mask_BS = inputs.get("attention_mask")
    if mask_BS is not None and mask_BS.shape == starts_BS.shape:
        starts_BS[:, 1:] |= (mask_BS[:, 1:] != mask_BS[:, :-1]) & (mask_BS[:, 1:] > 1)
    starts_BS[:, 0] = True
    return starts_BS.flatten().cumsum(0).view_as(starts_BS) - 1


def apply_language_of(
    language_of: LanguageOf, inputs: Mapping[str, Any], segment_BS: Tensor, groups: RowGroups = BY_LANGUAGE
) -> Tensor:
    """Call a user's function, which returns one code or None per segment, and spread the result to `(B, S)`.

    Raises:
        ValueError: the function returned another number of codes.
    """
    codes = language_of(inputs)
    count = int(segment_BS.max()) + 1
    if len(codes) != count:
        raise ValueError(
            f"language_of gave {len(codes)} languages for a batch of {count} segments. Return one code, or None, per "
            "row. If examples are packed, return one per part of a row from one position_ids == 0 to the next."
        )
    return torch.tensor([groups.id_of(code) for code in codes], device=segment_BS.device)[segment_BS]


class LanguageCollator:
    """A data collator that also adds the dataset's languages to the batch, as `language_ids` `(B, S)`.

    It accepts the input of its inner collator. This is a list of examples, which become one row each or one row in all
    (padding-free), or a list of lists of examples, one per row (Axolotl's multipack).

    Args:
        inner: the trainer's own collator. It does not get the language column.
        column: a column of language codes or labels, or of per-token ids of these when examples were packed.
        groups: whether the column holds languages, or labels.
    """

    def __init__(
        self, inner: Callable[[list[Any]], dict[str, Any]], column: str, groups: RowGroups = BY_LANGUAGE
    ) -> None:
        self.groups = groups
        self.inner = inner
        self.column = column

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        are_packs = isinstance(examples[0], list | tuple)
        packs: list[list[dict[str, Any]]] = examples if are_packs else [[example] for example in examples]
        flat = [example for pack in packs for example in pack]
        if not any(self.column in example for example in flat):
            return self.inner(examples)
        bare = [[{k: v for k, v in example.items() if k != self.column} for example in pack] for pack in packs]
        batch = self.inner(bare if are_packs else [example for (example,) in bare])
        language_BS = torch.full(batch["input_ids"].shape, UNKNOWN)
        if len(language_BS) != len(packs):  # padding-free: all examples are in one row
            packs = [flat]
        for row, pack in enumerate(packs):
            ids_S = self._ids(pack, language_BS.shape[1])
            # Packed rows may be padded on the left, except TRL's, which are not padded.
            left = len(pack) > 1 and "attention_mask" in batch and not bool(batch["attention_mask"][row, 0])
            start = language_BS.shape[1] - len(ids_S) if left else 0
            language_BS[row, start : start + len(ids_S)] = ids_S
        return {**batch, LANGUAGE_IDS: language_BS}

    def _ids(self, pack: Sequence[Mapping[str, Any]], length: int) -> Tensor:
        """The language ids of one row: one per token of a packed row, or the id of a single example everywhere."""
        if self.column == LANGUAGE_IDS:
            return torch.cat([torch.as_tensor(example[self.column]) for example in pack])
        rows = [group_in(self.column, example.get(self.column), self.groups) for example in pack]
        if len(pack) == 1:
            return torch.full((length,), rows[0])
        sizes = torch.tensor([len(example["input_ids"]) for example in pack])
        return torch.tensor(rows).repeat_interleave(sizes)
