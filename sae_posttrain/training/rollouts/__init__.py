"""Steered rollouts: one rollout of each group is steered into a loop, which RL would otherwise almost never sample."""

from typing import TYPE_CHECKING

from ...lazy import lazily
from .function import steered_rollout_func

if TYPE_CHECKING:
    from .config import SteeredGRPOConfig, SteeredRLOOConfig
    from .mixin import SteeredRolloutMixin
    from .trainer import SteeredGRPOTrainer, SteeredRLOOTrainer

# Only these need TRL.
_HOME = {
    "SteeredGRPOConfig": "config",
    "SteeredRLOOConfig": "config",
    "SteeredGRPOTrainer": "trainer",
    "SteeredRLOOTrainer": "trainer",
    "SteeredRolloutMixin": "mixin",
}
__all__ = [
    "SteeredGRPOConfig",
    "SteeredGRPOTrainer",
    "SteeredRLOOConfig",
    "SteeredRLOOTrainer",
    "SteeredRolloutMixin",
    "steered_rollout_func",
]
__getattr__ = lazily(__name__, _HOME)
