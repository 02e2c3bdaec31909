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
    """Sums since the last log, of this process.

    Args:
        names: what is summed, in this order, alike on every rank.
        step: the optimizer step at which the run begins.
    """

    def __init__(self, names: Sequence[str], step: int = 0) -> None:
        self.names = tuple(names)
        self._step = step
        self._warned: set[str] = set()
        self._sums: Tensor | None = None

    def add(self, parts: Sequence[Tensor]) -> None:
        """Count one micro-batch: tensors that together hold one value for each name."""
        device = parts[0].device
        # Double where the device has it: a long logging period counts more tokens than float32 can tell apart.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        values = torch.cat([one.detach().to(device, dtype).reshape(-1) for one in parts])
        self._sums = values if self._sums is None else self._sums + values.to(self._sums.device)

    def read(self, trainer: Trainer) -> tuple[dict[str, float], int]:
        """The sums over all ranks, empty where nothing was counted, and the optimizer steps they are of.

        A collective call on every rank. Sums start again from zero.
        """
        steps = max(1, trainer.state.global_step - self._step)
        self._step = trainer.state.global_step
        if self._sums is None:
            return {}, steps
        total = trainer.accelerator.reduce(self._sums, "sum").tolist()
        self._sums = None
        return dict(zip(self.names, total, strict=True)), steps

    def warn(self, logs: Mapping[str, float], advice: Mapping[str, str]) -> None:
        """Warn once for each share in `advice` that is high, and say what to do about it."""
        for name, text in advice.items():
            share = logs.get(name, 0.0)
            if share > WARN_ABOVE and name not in self._warned:
                self._warned.add(name)
                logger.warning("%.0f%% of the labelled tokens are not penalised: %s", 100 * share, text)
