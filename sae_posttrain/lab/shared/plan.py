"""What a miniature world is made of."""

from __future__ import annotations

from dataclasses import dataclass

from .model import ModelSize, Stage


@dataclass(frozen=True)
class WorldPlan:
    """The size of the model and the length of the trainings; smaller values make a worse world sooner."""

    size: ModelSize
    stages: tuple[Stage, ...]
    sae_steps: int
