"""Inspect a model with its features: where they fire, what they do around a switch, and how well an SAE fits."""

from .contexts import FeatureContexts, contexts_to_json, top_activations, top_contexts
from .diff import ModelDiff, diff_models, diff_readings
from .diff_record import diff_to_json
from .feature_readings import FeatureReading, read_model_features
from .fit import Fit, measure_fit
from .trace import SwitchPassage, SwitchTrace, find_passages, trace_switches, traces_to_json

__all__ = [
    "FeatureContexts",
    "FeatureReading",
    "Fit",
    "ModelDiff",
    "SwitchPassage",
    "SwitchTrace",
    "contexts_to_json",
    "diff_models",
    "diff_readings",
    "diff_to_json",
    "find_passages",
    "measure_fit",
    "read_model_features",
    "top_activations",
    "top_contexts",
    "trace_switches",
    "traces_to_json",
]
