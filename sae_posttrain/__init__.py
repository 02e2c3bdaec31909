"""Sparse-autoencoder features as training signals inside the trainers people already use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from .discovery import discover_language_features, discover_repetition_features
    from .expected import expected_switch_rate
    from .feature_set import FeatureSet
    from .metrics import code_switching_rate, repetition_rate
    from .sae import SparseAutoencoder, load_sae
    from .steering import steer
    from .token_counts import TokenCounts, count_tokens
    from .training.evaluation import RateEvaluationCallback
    from .training.rollouts import SteeredGRPOConfig, SteeredGRPOTrainer
    from .training.sasft import SASFTCallback, SASFTConfig, SASFTTrainer

# Looked up on first use, so that `import sae_posttrain` costs nothing and the metrics need no torch.
_HOME = {
    "FeatureSet": "feature_set",
    "RateEvaluationCallback": "training.evaluation",
    "SASFTCallback": "training.sasft",
    "SASFTConfig": "training.sasft",
    "SASFTTrainer": "training.sasft",
    "SparseAutoencoder": "sae",
    "SteeredGRPOConfig": "training.rollouts",
    "SteeredGRPOTrainer": "training.rollouts",
    "TokenCounts": "token_counts",
    "code_switching_rate": "metrics",
    "count_tokens": "token_counts",
    "discover_language_features": "discovery",
    "discover_repetition_features": "discovery",
    "expected_switch_rate": "expected",
    "load_sae": "sae",
    "repetition_rate": "metrics",
    "steer": "steering",
}
__all__ = [
    "FeatureSet",
    "RateEvaluationCallback",
    "SASFTCallback",
    "SASFTConfig",
    "SASFTTrainer",
    "SparseAutoencoder",
    "SteeredGRPOConfig",
    "SteeredGRPOTrainer",
    "TokenCounts",
    "code_switching_rate",
    "count_tokens",
    "discover_language_features",
    "discover_repetition_features",
    "expected_switch_rate",
    "load_sae",
    "repetition_rate",
    "steer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
