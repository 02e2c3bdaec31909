"""Which language each token of a batch belongs to: from a dataset's column, or from the segment's own tokens.

A segment is what was one example before batching: a row, or a stretch of a packed row.
"""

# B batch, S sequence, N segments, V vocabulary, C scripts, L candidate languages

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...languages import LANGUAGES, get_language, token_script
from ...vocabulary import token_bytes

LANGUAGE_IDS = "language_ids"
"""Name of the batch entry `(B, S)` and of the per-token dataset column that carry languages."""
UNKNOWN = -1
CODES: tuple[str, ...] = tuple(sorted(LANGUAGES))

LanguageOf = Callable[[Mapping[str, Tensor]], Sequence[str | None]]

# What each further script of a language costs it, as a share of the tokens: Han alone is zh, ja needs a share of kana.
EXTRA_SCRIPT_COST = 0.05


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


class ScriptIdentifier:
    """Tell a segment's language by the scripts of its labelled tokens, on the batch's device, without waiting for it.

    A segment is taken for the candidate whose scripts cover most of it, and at least half. Where two candidates do
    equally well (en and fr) it stays unknown; where only one uses the script, a third language in it is not noticed.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, candidates: Sequence[str]) -> None:
        languages = [get_language(code) for code in candidates]
        scripts = sorted({script for language in languages for script in language.scripts})
        self.script_V = _scripts_of_vocabulary(tokenizer, scripts)
        # Scripts of no candidate share the last-but-one column, tokens of no script the last, which is not counted.
        self.covers_CL = torch.zeros(len(scripts) + 1, len(languages))
        for column, language in enumerate(languages):
            for script in language.scripts:
                self.covers_CL[scripts.index(script), column] = 1
        self.cost_L = torch.tensor([EXTRA_SCRIPT_COST * (len(language.scripts) - 1) for language in languages])
        self.code_L = torch.tensor([CODES.index(language.code) for language in languages])

    def __call__(self, inputs: Mapping[str, Tensor], segment_BS: Tensor) -> Tensor:
        """`(B, S)` language of each token's segment."""
        self._move(inputs["input_ids"].device)
        ids_BS, none = inputs["input_ids"], len(self.covers_CL)
        script_BS = self.script_V[ids_BS.clamp(max=len(self.script_V) - 1)]
        script_BS = script_BS.where((inputs["labels"] != -100) & (ids_BS < len(self.script_V)), none)
        counts_NC = torch.zeros(segment_BS.numel(), none + 1, device=segment_BS.device)
        counts_NC.index_put_((segment_BS.flatten(), script_BS.flatten()), torch.ones(1, device=segment_BS.device), True)
        counts_NC = counts_NC[:, :none]
        share_NL = counts_NC @ self.covers_CL / counts_NC.sum(-1, keepdim=True).clamp(min=1)
        score_NL = (share_NL - self.cost_L).where(share_NL >= 0.5, -1.0)
        best_N = score_NL.max(-1, keepdim=True).values
        winners_NL = (score_NL > best_N - 1e-6) & (best_N > -1)
        known_N = winners_NL.sum(-1) == 1
        language_N = self.code_L[winners_NL.float().argmax(-1)].where(known_N, UNKNOWN)
        return language_N[segment_BS]

    def _move(self, device: torch.device) -> None:
        if self.script_V.device != device:
            for name in ("script_V", "covers_CL", "cost_L", "code_L"):
                setattr(self, name, getattr(self, name).to(device))


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


def _scripts_of_vocabulary(tokenizer: PreTrainedTokenizerBase, scripts: Sequence[str]) -> Tensor:
    """`(V,)` column of each token's script."""
    other, none = len(scripts), len(scripts) + 1
    table = [token_script(raw) for raw in token_bytes(tokenizer)]
    columns: dict[str | None, int] = {None: none, **{script: column for column, script in enumerate(scripts)}}
    return torch.tensor([columns.get(script, other) for script in table])
