"""Inspect a model with its features: where they fire, what they do around a switch, and how well an SAE fits."""

from .contexts import FeatureContexts, contexts_to_json, top_activations, top_contexts
from .diagnose_answers import ProofSettings
from .diagnose_cases import Case, LoopFault, SwitchFault, TextFault, split_cases
from .diagnose_features import Diagnosis, diagnose
from .diagnose_proof import Proof
from .diff import ModelDiff, diff_models, diff_readings
from .diff_record import diff_to_json
from .feature_readings import FeatureReading, read_model_features
from .fit import Fit, measure_fit
from .trace import SwitchPassage, SwitchTrace, find_passages, trace_switches, traces_to_json

__all__ = [
    "Case",
    "Diagnosis",
    "FeatureContexts",
    "FeatureReading",
    "Fit",
    "LoopFault",
    "ModelDiff",
    "Proof",
    "ProofSettings",
    "SwitchFault",
    "SwitchPassage",
    "SwitchTrace",
    "TextFault",
    "contexts_to_json",
    "diagnose",
    "diff_models",
    "diff_readings",
    "diff_to_json",
    "find_passages",
    "measure_fit",
    "read_model_features",
    "split_cases",
    "top_activations",
    "top_contexts",
    "trace_switches",
    "traces_to_json",
]
