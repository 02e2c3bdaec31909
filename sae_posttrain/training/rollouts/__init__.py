"""Steered rollouts: one rollout of each group loops on purpose, so that RL sees what it would almost never sample."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .function import steered_rollout_func

if TYPE_CHECKING:
    from .config import SteeredGRPOConfig, SteeredRLOOConfig
    from .trainer import SteeredGRPOTrainer, SteeredRLOOTrainer, SteeredRolloutMixin

# Only these need TRL.
_HOME = {
    "SteeredGRPOConfig": "config",
    "SteeredRLOOConfig": "config",
    "SteeredGRPOTrainer": "trainer",
    "SteeredRLOOTrainer": "trainer",
    "SteeredRolloutMixin": "trainer",
}
__all__ = [
    "SteeredGRPOConfig",
    "SteeredGRPOTrainer",
    "SteeredRLOOConfig",
    "SteeredRLOOTrainer",
    "SteeredRolloutMixin",
    "steered_rollout_func",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
