"""Steer a model while it generates, find out how strongly, and steer single requests inside vLLM."""

from typing import TYPE_CHECKING

from ..lazy import lazily
from .generate import steer, typical_contributions
from .removal import project_out, suppress, with_random_directions

if TYPE_CHECKING:
    from .calibration import calibrate
    from .curve import Calibration

# Looked up on first use: vLLM loads this room's plugin in every process, and calibration needs sampling and metrics.
_HOME = {"Calibration": "curve", "calibrate": "calibration"}
__all__ = [
    "Calibration",
    "calibrate",
    "project_out",
    "steer",
    "suppress",
    "typical_contributions",
    "with_random_directions",
]
__getattr__ = lazily(__name__, _HOME)
