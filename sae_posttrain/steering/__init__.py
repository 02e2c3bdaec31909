"""Steer a model while it generates, find out how strongly, and steer single requests inside vLLM."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .generate import steer, typical_contributions
from .suppress import project_out, suppress, with_random_directions

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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
