"""Inspect a model with its features: where they fire, what they do around a switch, and how well an SAE fits."""

from .contexts import FeatureContexts, contexts_to_json, top_contexts
from .fit import Fit, measure_fit
from .trace import SwitchPassage, SwitchTrace, find_passages, trace_switches, traces_to_json

__all__ = [
    "FeatureContexts",
    "Fit",
    "SwitchPassage",
    "SwitchTrace",
    "contexts_to_json",
    "find_passages",
    "measure_fit",
    "top_contexts",
    "trace_switches",
    "traces_to_json",
]
