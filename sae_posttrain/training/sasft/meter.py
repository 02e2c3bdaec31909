"""Running sums behind the logged metrics; kept on the device, so that no step waits for them."""

# B batch, S sequence, F features of one layer

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Trainer

from .loss import Penalty
from .segments import UNKNOWN

logger = logging.getLogger(__name__)

WARN_ABOVE = 0.05
_ADVICE = {
    "sasft_unknown_share": "their language could not be told. Script cannot tell en from fr: add a `language` column "
    "to the dataset or pass language_of=….",
    "sasft_no_baseline_share": "their language has no baseline in the feature set. Discover features with texts in "
    "it too, or use baseline='zero'.",
}


class Meter:
    """Sums since the last log, of this process.

    Logged: `sasft_loss` (unweighted, per optimizer step); of the labelled tokens `sasft_penalised_share`,
    `sasft_unknown_share` (language not told) and `sasft_no_baseline_share` (told, but nothing to compare with); and per
    suppressed language `sasft_pre_activation_<code>`, the mean over the tokens penalised.
    """

    def __init__(self, suppress: Sequence[str], step: int = 0) -> None:
        self.suppress = tuple(suppress)
        self._step = step
        self._warned: set[str] = set()
        self._sums: Tensor | None = None

    def add_batch(self, auxiliary: Tensor) -> None:
        """Count one micro-batch's loss, scaled like the part of the step that it is."""
        self._add(torch.cat([auxiliary.detach().reshape(1), auxiliary.new_zeros(4 + 2 * len(self.suppress))]))

    def add_layer(self, penalty: Penalty, pre_BSF: Tensor, language_BS: Tensor, labelled_BS: Tensor) -> None:
        """Count one layer's tokens and pre-activations."""
        penalised_BSF = (penalty.weight_LF[language_BS] > 0) & labelled_BS[..., None]
        unknown_BS, known_BS = language_BS == UNKNOWN, penalty.known_L[language_BS]
        kinds = [labelled_BS, penalised_BSF.any(-1), labelled_BS & unknown_BS, labelled_BS & ~known_BS & ~unknown_BS]
        sum_T = penalty.target_TF @ pre_BSF.where(penalised_BSF, 0.0).sum((0, 1))
        count_T = penalty.target_TF @ penalised_BSF.sum((0, 1)).float()
        self._add(torch.cat([sum_T.new_zeros(1), torch.stack([one.sum() for one in kinds]), sum_T, count_T]))

    def read(self, trainer: Trainer) -> dict[str, float]:
        """The logged values, reduced over processes; sums start again from zero."""
        steps = max(1, trainer.state.global_step - self._step)
        self._step = trainer.state.global_step
        if self._sums is None:
            return {}
        total = trainer.accelerator.reduce(self._sums, "sum").tolist()
        self._sums = None
        loss, labelled, penalised, unknown, no_baseline, *per_language = total
        logs = {
            "sasft_loss": loss / steps / trainer.accelerator.num_processes,
            "sasft_penalised_share": penalised / max(1.0, labelled),
            "sasft_unknown_share": unknown / max(1.0, labelled),
            "sasft_no_baseline_share": no_baseline / max(1.0, labelled),
        }
        sums, counts = per_language[: len(self.suppress)], per_language[len(self.suppress) :]
        for code, summed, count in zip(self.suppress, sums, counts, strict=True):
            if count > 0:
                logs[f"sasft_pre_activation_{code}"] = summed / count
        if trainer.is_world_process_zero():
            for kind, advice in _ADVICE.items():
                self._warn_once(kind, logs[kind], advice)
        return logs

    def _add(self, values: Tensor) -> None:
        # Double where the device has it: a long logging period counts more tokens than float32 can tell apart.
        values = values.detach().to(torch.float32 if values.device.type == "mps" else torch.float64)
        self._sums = values if self._sums is None else self._sums + values.to(self._sums.device)

    def _warn_once(self, kind: str, share: float, advice: str) -> None:
        if share > WARN_ABOVE and kind not in self._warned:
            self._warned.add(kind)
            logger.warning("%.0f%% of the labelled tokens are not penalised: %s", 100 * share, advice)
