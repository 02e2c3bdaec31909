"""Running sums behind the logged metrics; kept on the device, so that no step waits for them."""

# B batch, S sequence, F features of one layer

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Trainer

from .loss import Penalty

logger = logging.getLogger(__name__)

UNKNOWN_WARNING = 0.05


class Meter:
    """Sums since the last log, of this process.

    Logged: `sasft_loss` (unweighted, per optimizer step), `sasft_penalised_share` and `sasft_unknown_share` of the
    labelled tokens, and per suppressed language `sasft_pre_activation_<code>`, the mean over the tokens penalised.
    """

    def __init__(self, suppress: Sequence[str], step: int = 0) -> None:
        self.suppress = tuple(suppress)
        self._step = step
        self._warned = False
        self._sums: Tensor | None = None

    def add_batch(self, auxiliary: Tensor) -> None:
        """Count one micro-batch's loss, scaled like the part of the step that it is."""
        self._add(torch.cat([auxiliary.detach().reshape(1), auxiliary.new_zeros(3 + 2 * len(self.suppress))]))

    def add_layer(self, penalty: Penalty, pre_BSF: Tensor, language_BS: Tensor, labelled_BS: Tensor) -> None:
        """Count one layer's tokens and pre-activations."""
        penalised_BSF = (penalty.weight_LF[language_BS] > 0) & labelled_BS[..., None]
        tokens = [labelled_BS, penalised_BSF.any(-1), labelled_BS & ~penalty.known_L[language_BS]]
        sum_T = penalty.target_TF @ (pre_BSF * penalised_BSF).sum((0, 1))
        count_T = penalty.target_TF @ penalised_BSF.sum((0, 1)).float()
        self._add(torch.cat([sum_T.new_zeros(1), torch.stack([one.sum() for one in tokens]), sum_T, count_T]))

    def read(self, trainer: Trainer) -> dict[str, float]:
        """The logged values, reduced over processes; sums start again from zero."""
        steps = max(1, trainer.state.global_step - self._step)
        self._step = trainer.state.global_step
        if self._sums is None:
            return {}
        total = trainer.accelerator.reduce(self._sums, "sum").tolist()
        self._sums = None
        loss, labelled, penalised, unknown, *per_language = total
        logs = {
            "sasft_loss": loss / steps / trainer.accelerator.num_processes,
            "sasft_penalised_share": penalised / max(1.0, labelled),
            "sasft_unknown_share": unknown / max(1.0, labelled),
        }
        sums, counts = per_language[: len(self.suppress)], per_language[len(self.suppress) :]
        for code, summed, count in zip(self.suppress, sums, counts, strict=True):
            if count > 0:
                logs[f"sasft_pre_activation_{code}"] = summed / count
        self._warn(logs["sasft_unknown_share"])
        return logs

    def _add(self, values: Tensor) -> None:
        # Double where the device has it: a long logging period counts more tokens than float32 can tell apart.
        values = values.detach().to(torch.float32 if values.device.type == "mps" else torch.float64)
        self._sums = values if self._sums is None else self._sums + values.to(self._sums.device)

    def _warn(self, unknown: float) -> None:
        if unknown > UNKNOWN_WARNING and not self._warned:
            self._warned = True
            logger.warning(
                "The language of %.0f%% of the labelled tokens could not be told, and they are not penalised. Script "
                "alone cannot tell en from fr: add a `language` column to the dataset or pass language_of=….",
                100 * unknown,
            )
