"""From a model, its SAEs and texts to a feature set."""

from .calibration import calibrate
from .curve import Calibration
from .loops import LoopSample, sample_loops
from .monolinguality import discover_language_features
from .repetition import discover_repetition_features

__all__ = [
    "Calibration",
    "LoopSample",
    "calibrate",
    "discover_language_features",
    "discover_repetition_features",
    "sample_loops",
]
