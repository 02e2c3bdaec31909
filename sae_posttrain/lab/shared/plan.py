"""The settings of a miniature world."""

from __future__ import annotations

from dataclasses import dataclass

from .documents import Reading
from .model import ModelSize, Stage


@dataclass(frozen=True)
class WorldPlan:
    """The size of the model and of its SAEs, and the length of the trainings; smaller values make a worse world sooner.

    Args:
        size: shape of the base model.
        stages: what it is trained on, in this order. The SAEs are trained on the text of the last stage.
        learning_rate: of the base model's training.
        layers: 0-based decoder blocks that get an SAE.
        d_sae, k: features of an SAE, and active features per token.
        sae_steps: training steps of the SAEs.
    """

    size: ModelSize
    stages: tuple[Stage, ...]
    sae_steps: int
    layers: tuple[int, ...]
    learning_rate: float = 2e-3
    d_sae: int = 1024
    k: int = 16

    @property
    def reading(self) -> Reading:
        """The text of the world, without what only teaches copying."""
        return self.stages[-1].reading
