"""What the engine expects of an auxiliary term: the features' excess, the token mass, or one of your own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import Trainer

from .batch import Batch


class Term(Protocol):
    """One auxiliary loss. The engine multiplies it by `weight` and by the trainer's own normalisation.

    The order of a micro-batch: `begin`, the model's forward (during which the term's hooks read), `finish`, `end`.
    """

    name: str
    """Key of the term in the engine, in the checkpoint's record of weights, and in messages."""
    loss_name: str
    """Name under which the loss of an optimizer step is logged, without the weight."""
    weight: float
    """May change between optimizer steps; a resumed run takes up the changed value. At 0 the term measures only."""
    counted: tuple[str, ...]
    """What `finish` counts, in this order, alike on every rank."""
    advice: Mapping[str, str]
    """Logged share of labelled tokens that are not penalised → what to do where it is high."""

    def settings(self) -> dict[str, Any]:
        """What a checkpoint records, and a resumed run is compared with."""

    def check(self, trainer: Trainer) -> None:
        """Refuse, before anything runs, a trainer that the term cannot serve."""

    def start(self, trainer: Trainer, model: nn.Module, step: int, resumed: Mapping[str, Any]) -> None:
        """Hook the model. `resumed` is the record of the checkpoint that the run goes on from, or empty."""

    def stop(self) -> None:
        """Remove the hooks."""

    def begin(self, batch: Batch) -> None:
        """Take a micro-batch, before the forward."""

    def finish(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss summed over tokens, neither weighted nor normalised, and what was counted."""

    def end(self) -> None:
        """Release the micro-batch, also after an error."""

    def end_step(self, trainer: Trainer, step: int) -> None:
        """After each optimizer step; a collective call on every rank."""

    def state(self, trainer: Trainer) -> dict[str, Any]:
        """What a resumed run needs besides the settings, for a checkpoint; a collective call on every rank."""

    def metrics(self, total: Mapping[str, float]) -> dict[str, float]:
        """What is logged, from the sums since the last log over all ranks."""
