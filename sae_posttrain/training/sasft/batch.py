"""One micro-batch for the auxiliary terms, from any trainer: which tokens count, their language, and the scale."""

# B batch, S sequence, K kept positions

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from .segments import LANGUAGE_IDS
from .telling import LanguageTeller


@dataclass(frozen=True, eq=False)
class Batch:
    """The data of one micro-batch that a term gets before the model's forward.

    Args:
        labels_BS: token ids, -100 where there is no label.
        labelled_BS: which labels the trainer's cross-entropy counts. The first label of a row is not one of them.
        language_BS: index of each token's language in `segments.CODES`, or `UNKNOWN`.
        told: the counts of `LanguageTeller`, for the log.
        scale: factor by which the trainer multiplies its summed cross-entropy.
        parts: number of micro-batches over which the trainer averages; 1 if it adds up losses that are already scaled.
        place: optimizer step, number of the micro-batch within it, and rank; the same in a resumed run.
    """

    labels_BS: Tensor
    labelled_BS: Tensor
    language_BS: Tensor
    told: Tensor
    scale: Tensor
    parts: int
    place: tuple[int, int, int]


class BatchReader:
    """Reads a `Batch` from what a trainer gives to its `compute_loss`.

    Args:
        teller: finds the languages.
        step: the optimizer step at which the run begins.
    """

    def __init__(self, teller: LanguageTeller, step: int = 0) -> None:
        self._teller = teller
        self._place = (step, -1)

    def read(self, trainer: Trainer, inputs: dict[str, Any], num_items: Tensor | int | None) -> Batch:
        """Read a micro-batch and remove `language_ids` from it. Call it before the trainer's loss, which may change
        the batch.

        Args:
            inputs: the micro-batch.
            num_items: number of tokens of the whole step, by which the trainer divides; None if the trainer averages.
        """
        told_BS = _of_other_answers(inputs.pop(LANGUAGE_IDS, None), inputs["input_ids"].shape)
        labels_BS = whole_labels(inputs)
        labelled_BS = labels_BS != -100
        labelled_BS[:, 0] = False  # the first token of a row is not predicted
        language_BS, told = self._teller.tell({**inputs, "labels": labels_BS}, told_BS, labelled_BS)
        parts = 1 if num_items is not None else trainer.current_gradient_accumulation_steps
        scale = scale_of(trainer, labelled_BS, num_items)
        return Batch(labels_BS, labelled_BS, language_BS, told, scale, parts, self._next_place(trainer))

    def _next_place(self, trainer: Trainer) -> tuple[int, int, int]:
        step, number = self._place
        self._place = (step, number + 1) if trainer.state.global_step == step else (trainer.state.global_step, 0)
        return (*self._place, trainer.args.process_index)


def whole_labels(inputs: Mapping[str, Any]) -> Tensor:
    """The labels `(B, S)` of a batch, each at the position of its token.

    Some frameworks give `shift_labels`, which are shifted by one token to the left. With `logits_to_keep` (a number of
    last positions, a mask, or indices, as in transformers' models), ms-swift gives only the labels of these positions.

    Raises:
        ValueError: the labels do not fit the tokens.
    """
    if "labels" not in inputs:
        raise ValueError(f"The batch has {sorted(inputs)}, but no labels: SASFT penalises labelled tokens only.")
    labels: Tensor = inputs["labels"]
    rows, length = inputs["input_ids"].shape
    kept, shifted_BS = inputs.get("logits_to_keep"), inputs.get("shift_labels")
    if shifted_BS is not None and shifted_BS.shape == (rows, length):
        whole_BS = torch.full_like(shifted_BS, -100)
        whole_BS[:, 1:] = shifted_BS[:, :-1]
        return whole_BS
    if labels.shape == (rows, length):
        return labels
    if kept is None or labels.dim() != 2 or len(labels) != rows:
        raise ValueError(
            f"The batch has labels of shape {tuple(labels.shape)} for tokens of shape {(rows, length)}. SASFT needs "
            "one label per token, -100 where there is none, as transformers' causal language models take them."
        )
    kept_S = torch.zeros(length, dtype=torch.bool, device=labels.device)
    kept_S[slice(-kept, None) if isinstance(kept, int) else kept.to(labels.device)] = True
    # The model predicts the label after each kept position, in the order of the positions. The last has no such label.
    number_S = kept_S.cumsum(0)
    predicts_S = kept_S & (number_S < labels.shape[1])
    whole_BS = labels.new_full((rows, length), -100)
    whole_BS[:, 1:] = labels[:, number_S.where(predicts_S, 0)[:-1]].where(predicts_S[:-1], -100)
    return whole_BS


def _of_other_answers(told_BS: Tensor | None, shape: torch.Size) -> Tensor | None:
    """The languages that the collator put into the batch, extended to the answers that GKD has sampled since.

    Raises:
        ValueError: the batch has another shape now, and a row has several languages.
    """
    if told_BS is None or told_BS.shape == shape:
        return told_BS
    first_B1 = told_BS[:, :1]
    if len(told_BS) != shape[0] or bool((told_BS != first_B1).any()):
        raise ValueError(
            f"The batch had languages for tokens of shape {tuple(told_BS.shape)}, and its tokens are now of shape "
            f"{tuple(shape)}. SASFT follows sampled answers only where each row is one example."
        )
    return first_B1.expand(shape)


def scale_of(trainer: Trainer, labelled_BS: Tensor, num_items: Tensor | int | None) -> Tensor:
    """The factor by which the trainer multiplies its summed cross-entropy."""
    if num_items is None:
        return 1 / labelled_BS.sum().clamp(min=1)
    scale = 1 / torch.as_tensor(num_items, device=labelled_BS.device).clamp(min=1)
    if trainer.args.average_tokens_across_devices:
        scale = scale * (trainer.accelerator.num_processes // trainer.get_tp_size())
    return scale
