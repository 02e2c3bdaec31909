"""Running sums for the logged metrics. They stay on the device, so that no step needs a host–device sync."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import Trainer

logger = logging.getLogger(__name__)

WARN_ABOVE = 0.05


class Meter:
    """The sums of this process since the last log.

    Args:
        names: names of the sums, in order. They must be the same on every rank.
        step: the optimizer step at which the run begins.
    """

    def __init__(self, names: Sequence[str], step: int = 0) -> None:
        self.names = tuple(names)
        self._step = step
        self._warned: set[str] = set()
        self._sums: Tensor | None = None

    def add(self, parts: Sequence[Tensor]) -> None:
        """Add one micro-batch. The tensors together contain one value per name."""
        device = parts[0].device
        # Use float64 if the device has it: over a long logging period, float32 cannot count all tokens exactly.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        values = torch.cat([one.detach().to(device, dtype).reshape(-1) for one in parts])
        self._sums = values if self._sums is None else self._sums + values.to(self._sums.device)

    def read(self, trainer: Trainer) -> tuple[dict[str, float], int]:
        """The sums over all ranks (empty if nothing was counted), and the number of optimizer steps they cover.

        This is a collective call on every rank. The sums are then reset to 0.
        """
        steps = max(1, trainer.state.global_step - self._step)
        self._step = trainer.state.global_step
        if self._sums is None:
            return {}, steps
        total = trainer.accelerator.reduce(self._sums, "sum").tolist()
        self._sums = None
        return dict(zip(self.names, total, strict=True)), steps

    def warn(self, logs: Mapping[str, float], advice: Mapping[str, str]) -> None:
        """Warn once for each high share in `advice`, and say what to do about it."""
        for name, text in advice.items():
            share = logs.get(name, 0.0)
            if share > WARN_ABOVE and name not in self._warned:
                self._warned.add(name)
                logger.warning("%.0f%% of the labelled tokens are not penalised: %s", 100 * share, text)
