"""The settings of a miniature world."""

from __future__ import annotations

from dataclasses import dataclass

from .documents import Reading
from .model import ModelSize, Stage


@dataclass(frozen=True)
class WorldPlan:
    """The size of the model and its SAEs, and the length of their training. Smaller values are faster and worse.

    Args:
        size: shape of the base model.
        stages: the stages of its training, in order. The SAEs are trained on the text of the last stage.
        learning_rate: learning rate of the base model's training.
        layers: 0-based decoder blocks that get an SAE.
        d_sae, k: number of features of an SAE, and number of active features per token.
        sae_steps: number of training steps of the SAEs.
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
        """The text of the last stage, without the stages that only teach copying."""
        return self.stages[-1].reading
