"""Find the language of each token of a batch: from a dataset column, a user's function or the script."""

# B batch, S sequence, N segments

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Trainer

from ...artefacts import SASFT_SCRIPT_CLOSE, SASFT_SCRIPT_MARGIN, source_metric
from ...metrics.prose import blank
from .identifier import ScriptIdentifier, labelled_runs
from .segments import BY_LANGUAGE, UNKNOWN, LanguageOf, RowGroups, apply_language_of, language_id, segments_of

logger = logging.getLogger(__name__)

FIRST_ANSWERS = 100
CLOSE_MARGIN = 0.5


def tokenizer_of(trainer: Trainer) -> PreTrainedTokenizerBase | None:
    """The trainer's tokenizer, which may be inside a processor."""
    return getattr(trainer.processing_class, "tokenizer", trainer.processing_class)


class LanguageTeller:
    """Finds languages: first from the column, then from the user's function, then from the answer's script.

    Args:
        tokenizer: the model's tokenizer. With None, scripts are not used.
        candidates: the languages that can be identified by script.
        language_of: as in `SASFTCallback`.
        has_segments: whether the batches show where one example ends and the next begins. If not, only the column is
            used.
        groups: whether rows are told apart by language, or by label. No script tells a label.
    """

    counted = ("by_column", "by_function", "by_script", "answers", "margin", "close")
    """Names of the counts of `tell`: labelled tokens by source of their language; and for answers identified by script,
    their number, the sum of their margins, and the number with a margin below `CLOSE_MARGIN`."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        candidates: Sequence[str],
        language_of: LanguageOf | None = None,
        has_segments: bool = True,
        groups: RowGroups = BY_LANGUAGE,
    ) -> None:
        told_by_script = tokenizer is not None and has_segments and groups.are_languages
        self._identify = ScriptIdentifier(tokenizer, candidates) if tokenizer is not None and told_by_script else None
        self._groups = groups
        self._language_of = language_of
        self._has_segments = has_segments

    def tell(self, inputs: Mapping[str, Any], told_BS: Tensor | None, labelled_BS: Tensor) -> tuple[Tensor, Tensor]:
        """The language of each token, `(B, S)`, and the counts.

        Args:
            inputs: a batch with `input_ids`, `labels` and, for packed rows, `position_ids`.
            told_BS: languages from the column; `UNKNOWN` where it is empty.
            labelled_BS: the tokens to count.
        """
        language_BS = torch.full_like(inputs["input_ids"], UNKNOWN) if told_BS is None else told_BS
        shares = [self._told(language_BS, labelled_BS)]
        margins: list[float] = []
        if self._has_segments:
            segment_BS = segments_of(inputs)
            if self._language_of is not None:
                given_BS = apply_language_of(self._language_of, inputs, segment_BS, self._groups)
                language_BS = language_BS.where(language_BS >= 0, given_BS)
            shares.append(self._told(language_BS, labelled_BS))
            open_BS = (language_BS < 0) & (inputs["labels"] != -100)
            if self._identify is not None and bool(open_BS.any()):
                found_N = torch.full((int(segment_BS[-1, -1]) + 1,), UNKNOWN)
                for number, answer in self._identify(inputs, segment_BS, open_BS).items():
                    found_N[number] = language_id(answer.language)
                    if answer.language is not None:
                        margins.append(2 * answer.share - 1)
                found_BS = found_N.to(segment_BS.device)[segment_BS]
                language_BS = language_BS.where(language_BS >= 0, found_BS)
        while len(shares) < 3:
            shares.append(self._told(language_BS, labelled_BS))
        tokens = torch.stack(shares).diff(prepend=torch.zeros_like(shares[0])[None])
        close = sum(margin < CLOSE_MARGIN for margin in margins)
        answers = torch.tensor([len(margins), sum(margins), close], device=tokens.device)
        return language_BS, torch.cat([tokens.to(answers.dtype), answers])

    def metrics(self, total: Mapping[str, float], labelled: float) -> dict[str, float]:
        """The values to log, from the sums over all ranks since the last log."""
        logs = {source_metric(one): total[one] / max(1.0, labelled) for one in self.counted[:3]}
        if total["answers"]:
            logs[SASFT_SCRIPT_MARGIN] = total["margin"] / total["answers"]
            logs[SASFT_SCRIPT_CLOSE] = total["close"] / total["answers"]
        return logs

    def describe(self, dataset: Any) -> None:
        """Log once which languages the scripts of the first answers give, and how many of these answers have code."""
        if self._identify is None or self._language_of is not None or not hasattr(dataset, "map"):
            return
        told, code = Counter[str](), 0
        for runs, answer in islice(self._answers(dataset), FIRST_ANSWERS):
            told[answer or "unknown"] += 1
            text = self._identify.text(runs)
            code += blank(text, urls=False, markup=False) != text
        if code:
            logger.warning(
                "The training set has no language column, and %d of its first %d answers contain code. Code is ignored "
                "and the language is found by the script of the prose: %s. If that is wrong, add a `language` "
                "column or pass language_of.",
                code,
                told.total(),
                ", ".join(f"{code} {count}" for code, count in told.most_common()),
            )

    def _answers(self, dataset: Any) -> Iterator[tuple[list[np.ndarray], str | None]]:
        """For the first rows: each answer's token ids, and the language that they give."""
        assert self._identify is not None
        for row in islice(dataset, FIRST_ANSWERS):
            if not isinstance(row, Mapping) or not len(row.get("input_ids", ())):
                return
            ids_BS = torch.as_tensor(row["input_ids"])[None]
            labels_BS = torch.as_tensor(row["labels"])[None] if row.get("labels") is not None else ids_BS
            lengths = row.get("seq_lengths") or [ids_BS.shape[1]]
            segment_BS = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None]
            inputs = {"input_ids": ids_BS, "labels": labels_BS}
            told = self._identify(inputs, segment_BS)
            for number, runs in labelled_runs(inputs, segment_BS):
                yield runs, told[number].language

    @staticmethod
    def _told(language_BS: Tensor, labelled_BS: Tensor) -> Tensor:
        return ((language_BS >= 0) & labelled_BS).sum()
