"""Sparse-autoencoder features as training signals inside the trainers people already use."""

from .lazy import TYPE_CHECKING, lazily

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from .data.classification import classify
    from .discovery import (
        discover_contrast_features,
        discover_language_features,
        discover_repetition_features,
        sample_loops,
    )
    from .discovery.classes import discover_class_features
    from .discovery.firing import collect_firing
    from .expected import expected_switch_rate
    from .feature_set import FeatureSet
    from .inspection import diagnose, diff_models, find_passages, measure_fit, top_contexts, trace_switches
    from .metrics import (
        CodeSwitchingReport,
        LoopSettings,
        RepetitionReport,
        SwitchCriteria,
        Thinking,
        code_switching_rate,
        compare_rates,
        find_loop,
        find_near_loop,
        find_repetition,
        language_confusion,
        repetition_rate,
        split_thinking,
    )
    from .report import write_report
    from .sae import SparseAutoencoder, load_sae
    from .sampling import Response, SamplingSettings, sample_responses
    from .steering import Calibration, calibrate, project_out, steer
    from .steering.removal import ablate
    from .token_counts import TokenCounts, count_tokens
    from .training.evaluation import RateEvaluationCallback
    from .training.rewards import CodeSwitchingPenalty, LoopPenalty
    from .training.rollouts import (
        SteeredGRPOConfig,
        SteeredGRPOTrainer,
        SteeredRLOOConfig,
        SteeredRLOOTrainer,
        steered_rollout_func,
    )
    from .training.sasft import SASFTCallback, SASFTConfig, SASFTTrainer

# Looked up on first use, so that `import sae_posttrain` costs nothing and the metrics need no torch.
_HOME = {
    "Calibration": "steering",
    "CodeSwitchingPenalty": "training.rewards",
    "CodeSwitchingReport": "metrics",
    "FeatureSet": "feature_set",
    "LoopPenalty": "training.rewards",
    "LoopSettings": "metrics",
    "RateEvaluationCallback": "training.evaluation",
    "RepetitionReport": "metrics",
    "Response": "sampling",
    "SASFTCallback": "training.sasft",
    "SASFTConfig": "training.sasft",
    "SASFTTrainer": "training.sasft",
    "SamplingSettings": "sampling",
    "SparseAutoencoder": "sae",
    "SteeredGRPOConfig": "training.rollouts",
    "SteeredGRPOTrainer": "training.rollouts",
    "SteeredRLOOConfig": "training.rollouts",
    "SteeredRLOOTrainer": "training.rollouts",
    "SwitchCriteria": "metrics",
    "Thinking": "metrics",
    "TokenCounts": "token_counts",
    "ablate": "steering.removal",
    "calibrate": "steering",
    "classify": "data.classification",
    "code_switching_rate": "metrics",
    "collect_firing": "discovery.firing",
    "compare_rates": "metrics",
    "count_tokens": "token_counts",
    "diagnose": "inspection",
    "diff_models": "inspection",
    "discover_class_features": "discovery.classes",
    "discover_contrast_features": "discovery",
    "discover_language_features": "discovery",
    "discover_repetition_features": "discovery",
    "expected_switch_rate": "expected",
    "find_loop": "metrics",
    "find_near_loop": "metrics",
    "find_passages": "inspection",
    "find_repetition": "metrics",
    "language_confusion": "metrics",
    "load_sae": "sae",
    "measure_fit": "inspection",
    "project_out": "steering",
    "repetition_rate": "metrics",
    "sample_loops": "discovery",
    "sample_responses": "sampling",
    "split_thinking": "metrics",
    "steer": "steering",
    "steered_rollout_func": "training.rollouts",
    "top_contexts": "inspection",
    "trace_switches": "inspection",
    "write_report": "report",
}
__all__ = [
    "Calibration",
    "CodeSwitchingPenalty",
    "CodeSwitchingReport",
    "FeatureSet",
    "LoopPenalty",
    "LoopSettings",
    "RateEvaluationCallback",
    "RepetitionReport",
    "Response",
    "SASFTCallback",
    "SASFTConfig",
    "SASFTTrainer",
    "SamplingSettings",
    "SparseAutoencoder",
    "SteeredGRPOConfig",
    "SteeredGRPOTrainer",
    "SteeredRLOOConfig",
    "SteeredRLOOTrainer",
    "SwitchCriteria",
    "Thinking",
    "TokenCounts",
    "ablate",
    "calibrate",
    "classify",
    "code_switching_rate",
    "collect_firing",
    "compare_rates",
    "count_tokens",
    "diagnose",
    "diff_models",
    "discover_class_features",
    "discover_contrast_features",
    "discover_language_features",
    "discover_repetition_features",
    "expected_switch_rate",
    "find_loop",
    "find_near_loop",
    "find_passages",
    "find_repetition",
    "language_confusion",
    "load_sae",
    "measure_fit",
    "project_out",
    "repetition_rate",
    "sample_loops",
    "sample_responses",
    "split_thinking",
    "steer",
    "steered_rollout_func",
    "top_contexts",
    "trace_switches",
    "write_report",
]
__getattr__ = lazily(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
