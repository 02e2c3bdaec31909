"""The interface of an auxiliary term, for the engine. The feature term and the token term implement it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import Trainer

from .batch import Batch


class Term(Protocol):
    """One auxiliary loss. The engine multiplies it by `weight` and by the trainer's own normalisation.

    The order of calls in a micro-batch is `begin`, the model's forward (in which the term's hooks read), `finish`,
    `end`.
    """

    name: str
    """Key of the term in the engine, in the checkpoint's record of weights, and in messages."""
    loss_name: str
    """Name under which the unweighted loss of an optimizer step is logged."""
    weight: float
    """The weight. It may change between optimizer steps, and a resumed run restores it. At 0 the term only measures."""
    counted: tuple[str, ...]
    """Names of the counts of `finish`, in order. They are the same on every rank."""
    advice: Mapping[str, str]
    """Mapping from a logged share of labelled tokens that are not penalised to what to do if it is high."""

    def settings(self) -> dict[str, Any]:
        """The settings that a checkpoint records. A resumed run is compared with them."""

    def check(self, trainer: Trainer) -> None:
        """Raise an error before training if the term cannot work with this trainer."""

    def start(self, trainer: Trainer, model: nn.Module, step: int, resumed: Mapping[str, Any]) -> None:
        """Hook the model. `resumed` is the record of the checkpoint that the run resumes from, or empty."""

    def stop(self) -> None:
        """Remove the hooks."""

    def begin(self, batch: Batch) -> None:
        """Receive a micro-batch before the forward."""

    def finish(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss summed over tokens, without weight and normalisation, and the counts."""

    def end(self) -> None:
        """Release the micro-batch, also after an error."""

    def end_step(self, trainer: Trainer, step: int) -> None:
        """Called after each optimizer step. This is a collective call on every rank."""

    def state(self, trainer: Trainer) -> dict[str, Any]:
        """The state that a checkpoint needs besides the settings. This is a collective call on every rank."""

    def metrics(self, total: Mapping[str, float]) -> dict[str, float]:
        """The values to log, from the sums over all ranks since the last log."""
