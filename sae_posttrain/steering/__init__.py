"""Steer a model while it generates, find out how strongly, and steer single requests inside vLLM."""

from typing import TYPE_CHECKING

from ..lazy import lazily
from .generate import steer, typical_contributions
from .removal import ablate, project_out, with_random_directions

if TYPE_CHECKING:
    from .calibration import calibrate
    from .curve import Calibration

# Looked up on first use: vLLM loads this room's plugin in every process, and calibration needs sampling and metrics.
_HOME = {"Calibration": "curve", "calibrate": "calibration"}
__all__ = [
    "Calibration",
    "ablate",
    "calibrate",
    "project_out",
    "steer",
    "typical_contributions",
    "with_random_directions",
]
__getattr__ = lazily(__name__, _HOME)
