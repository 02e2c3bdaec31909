"""From a model, its SAEs and texts to a feature set."""

from .contrast import discover_contrast_features
from .loop_sampling import LoopSample, sample_loops
from .monolinguality import discover_language_features
from .repetition import discover_repetition_features

__all__ = [
    "LoopSample",
    "discover_contrast_features",
    "discover_language_features",
    "discover_repetition_features",
    "sample_loops",
]
