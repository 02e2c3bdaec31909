"""Measure the baselines again on the training batches, every `refresh_baselines` steps. Off by default.

The published method always compares with the base model's means. During training the pre-activations drift; the log
shows the drift, and refreshing corrects for it. The penalty also lowers the mean of a penalised feature. A refreshed
baseline follows this mean down, so the penalty does not become 0.
"""

# B batch, S sequence, F features of one layer, L languages

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import Trainer

from ...artefacts import SASFT_DRIFT
from .loss import Penalty
from .segments import CODES

MIN_TOKENS = 100
"""Smallest number of labelled tokens since the last refresh. With fewer, a language keeps its baselines, because the
new mean would be noise."""


class BaselineRefresh:
    """The sums of pre-activations by language of this process, since the last refresh.

    Args:
        start: the penalties of each layer with the base model's baselines. Drift is measured from these.
        names: of the languages or labels, in the order of the tables' rows.
    """

    def __init__(self, start: Mapping[int, Penalty], names: Sequence[str] = CODES) -> None:
        self._names = list(names)
        self._start = dict(start)
        # The last column counts tokens. The last row is for tokens of unknown language.
        self._sums = {layer: _with_a_count(one.baseline_LF) for layer, one in start.items()}
        # Sums of the current step are separate: a run that resumes from a checkpoint within a step repeats that step.
        self._of_step = {layer: sums_LF.clone() for layer, sums_LF in self._sums.items()}

    def add_layer(self, layer: int, pre_BSF: Tensor, language_BS: Tensor, labelled_BS: Tensor) -> None:
        """Add one layer's labelled tokens."""
        device = pre_BSF.device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        values_BSF = torch.cat([pre_BSF.detach(), torch.ones_like(pre_BSF[..., :1])], dim=-1)
        # `where`, not a product: ignored positions may hold NaN, and 0 · NaN is NaN.
        values_BSF = values_BSF.where(labelled_BS[..., None], 0.0).to(dtype)
        sums_LF = self._of_step[layer] = self._of_step[layer].to(device, dtype)
        sums_LF.index_add_(0, language_BS.flatten() % len(sums_LF), values_BSF.flatten(0, 1))

    def end_step(self) -> None:
        """Add the sums of this optimizer step."""
        for layer, of_step_LF in self._of_step.items():
            self._sums[layer] = self._sums[layer].to(of_step_LF.device, of_step_LF.dtype) + of_step_LF
            of_step_LF.zero_()

    def refresh(
        self, penalties: Mapping[int, Penalty], trainer: Trainer
    ) -> tuple[dict[int, Penalty], dict[str, float]]:
        """Penalties with new baselines, and the drift to log. This is a collective call on every rank.

        The drift of a layer is the cosine distance between its mean pre-activations now and in the base model, over all
        features and measured languages. 0 means no drift.
        """
        renewed, drift = {}, {}
        for layer, penalty in penalties.items():
            total_LF = trainer.accelerator.reduce(self._sums[layer], "sum").to(penalty.baseline_LF.device)
            count_L = total_LF[:, -1]
            measured_L = (count_L >= MIN_TOKENS) & penalty.known_L
            mean_LF = (total_LF[:, :-1] / count_L.clamp(min=1)[:, None]).to(penalty.baseline_LF.dtype)
            baseline_LF = torch.where(measured_L[:, None], mean_LF, penalty.baseline_LF)
            renewed[layer] = replace(penalty, baseline_LF=baseline_LF)
            if bool(measured_L.any()):
                start_LF = self._start[layer].baseline_LF.to(mean_LF.device)
                similarity = cosine_similarity(mean_LF[measured_L].flatten(), start_LF[measured_L].flatten(), dim=0)
                drift[f"{SASFT_DRIFT}{layer}"] = 1 - float(similarity)
            self._sums[layer].zero_()
        return renewed, drift

    def state(self, penalties: Mapping[int, Penalty], trainer: Trainer) -> dict[str, Any]:
        """The state with which a resumed run continues identically. This is a collective call on every rank."""
        sums = {layer: trainer.accelerator.reduce(sums_LF, "sum") for layer, sums_LF in self._sums.items()}
        return {
            "baselines": {str(layer): self._by_name(one.baseline_LF) for layer, one in penalties.items()},
            "sums": {str(layer): self._by_name(sums_LF) for layer, sums_LF in sums.items()},
        }

    def resume(
        self, penalties: Mapping[int, Penalty], state: Mapping[str, Any], trainer: Trainer
    ) -> dict[int, Penalty]:
        """Load a checkpoint's baselines and sums. Returns the penalties with these baselines."""
        resumed = {}
        for layer, penalty in penalties.items():
            baseline_LF = penalty.baseline_LF.clone()
            self._fill(baseline_LF, state["baselines"][str(layer)])
            resumed[layer] = replace(penalty, baseline_LF=baseline_LF)
            if trainer.is_world_process_zero():  # the saved sums are over all ranks
                self._fill(self._sums[layer], state["sums"][str(layer)])
        return resumed

    def _by_name(self, values_LF: Tensor) -> dict[str, list[float]]:
        return {name: row for name, row in zip(self._names, values_LF.tolist(), strict=False) if any(row)}

    def _fill(self, values_LF: Tensor, by_name: Mapping[str, Sequence[float]]) -> None:
        for name, row in by_name.items():
            values_LF[self._names.index(name)] = torch.tensor(row, dtype=values_LF.dtype)


def _with_a_count(baseline_LF: Tensor) -> Tensor:
    """Zeros for a layer's sums, with one more column for the number of tokens."""
    return torch.zeros(baseline_LF.shape[0], baseline_LF.shape[1] + 1, dtype=torch.float64)
