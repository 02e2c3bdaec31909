"""Set the weights of all terms with weight `auto`. They are equal on all ranks and change only between steps."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerState

from ...artefacts import cost_metric, weight_metric
from .terms import Term
from .weight import AutoWeight

logger = logging.getLogger(__name__)


class WeightFinder:
    """Sets the `weight` of terms after each optimizer step.

    Args:
        terms: the terms with weight `auto`. They share the budget equally.
        budget: largest increase of the cross-entropy that all of them may cause together, as a share of it.
    """

    def __init__(self, terms: Sequence[Term], budget: float) -> None:
        self.terms = {term.name: term for term in terms}
        self.loss_budget = budget
        self.found: dict[str, AutoWeight] = {}
        self._of_step: Tensor | None = None
        self._used: dict[str, float] = {}
        self._ended = 0

    def start(self, state: TrainerState, resumed: Mapping[str, Any]) -> None:
        """Begin or resume a run.

        Args:
            state: the trainer's state, which contains the number of steps of the run.
            resumed: what `state` saved in the checkpoint that the run resumes from; empty for a new run.
        """
        self._ended, self._of_step = state.global_step, None
        for name, term in self.terms.items():
            setting = {"budget": self.loss_budget / len(self.terms), "num_steps": state.max_steps}
            self.found[name] = found = AutoWeight(**{**resumed.get(name, {}), **setting})
            term.weight = self._used[name] = found.weight
            needed, left = found.measured - found.seen, state.max_steps - state.global_step
            if found.start <= 0 and needed >= left and state.is_world_process_zero:
                logger.warning(
                    "Finding the weight of the %s term takes %d steps, during which its weight is 0. Only %d steps "
                    "are left, so the term will have no effect. Train longer, or give the weight as a number.",
                    *(name.removesuffix("s"), needed, left),
                )

    def add(self, loss: Tensor, auxiliary: Mapping[str, Tensor]) -> None:
        """Add one micro-batch: its contributions to the step's own loss and to each term's loss."""
        if not self.terms:
            return
        dtype = torch.float32 if loss.device.type == "mps" else torch.float64
        parts = [loss, *(auxiliary[name] for name in self.terms)]
        values = torch.stack([part.detach().to(loss.device, dtype) for part in parts])
        self._of_step = values if self._of_step is None else self._of_step + values

    def end_step(self, trainer: Trainer, step: int) -> None:
        """Set the weights of the next step. This is a collective call on every rank."""
        if step <= self._ended or self._of_step is None:
            return
        self._ended = step
        total = trainer.accelerator.reduce(self._of_step, "sum") / trainer.accelerator.num_processes
        self._of_step = None
        loss, *auxiliary = total.tolist()
        for (name, term), value in zip(self.terms.items(), auxiliary, strict=True):
            self._used[name] = term.weight
            self.found[name] = self.found[name].after(loss, value)
            term.weight = self.found[name].weight

    def state(self) -> dict[str, dict[str, Any]]:
        """The state to save in a checkpoint, by term."""
        return {name: one.state() for name, one in self.found.items()}

    def metrics(self) -> dict[str, float]:
        """The values to log: the weight of the last step, and the estimated cost of the term."""
        logs = {}
        for name, term in self.terms.items():
            logs[weight_metric(term.loss_name)] = self._used[name]
            logs[cost_metric(term.loss_name)] = self.found[name].cost
        return logs
