"""Names that one package writes and another reads: file names, keys of JSON objects, columns of rows.

Writers and readers import them from here, so that neither can change a name without the other. This module imports
no other module of the project, and every package may import it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

# Files in the folder of a training run.
TRAINER_STATE: Final = "trainer_state.json"
"""File name that transformers uses. Its `log_history` contains the curves."""
EVAL_RESULTS: Final = "eval_results.json"
"""File name that `Trainer.save_metrics("eval", …)` uses."""
CALLBACK_STATES: Final = "stateful_callbacks"
"""Key in the trainer state for the states of callbacks."""
SASFT_STATE: Final = "SASFT"
"""Key of SASFT's state among these."""
SUPPRESS: Final = "suppress"
"""Key in SASFT's state for the suppressed languages."""

# Metrics that training logs and the report draws. A name that ends in `_` or `/` is the beginning of several.
EVAL: Final = "eval_"
EVAL_THINKING: Final = "eval_thinking_"
CODE_SWITCHING: Final = "code_switching"
REPETITION: Final = "repetition"
"""The two rates of `RateEvaluationCallback`, which follow `EVAL` or `EVAL_THINKING`."""
SASFT: Final = "sasft_"
SASFT_LOSS: Final = "sasft_loss"
SASFT_TOKEN_LOSS: Final = "sasft_token_loss"
SASFT_PENALISED: Final = "sasft_penalised_share"
SASFT_TOKEN_PENALISED: Final = "sasft_token_penalised_share"
SASFT_TOKEN_SHARED_SCRIPT: Final = "sasft_token_shared_script_share"
SASFT_UNKNOWN: Final = "sasft_unknown_share"
SASFT_NO_BASELINE: Final = "sasft_no_baseline_share"
SASFT_SCRIPT_MARGIN: Final = "sasft_script_margin"
SASFT_SCRIPT_CLOSE: Final = "sasft_script_close_share"
SASFT_PRE_ACTIVATION: Final = "sasft_pre_activation_"
SASFT_TOKEN_MASS: Final = "sasft_token_mass_"
SASFT_DRIFT: Final = "sasft_drift_layer_"
LOOP_RATE: Final = "loop_rate/"
LOOP_RATE_STEERED: Final = "loop_rate/steered"
LOOP_RATE_ORDINARY: Final = "loop_rate/ordinary"
LOOP_RATES: Final = (LOOP_RATE_ORDINARY, LOOP_RATE_STEERED)
"""By whether the rollout is steered."""
STEERING: Final = "steering/"
STEERING_REWARD: Final = "steering/reward"
STEERING_ADVANTAGE: Final = "steering/advantage"
STEERING_TOKEN_SHARE: Final = "steering/token_share"
STEERING_STOPPED: Final = "steering/stopped"
STEERING_METRICS: Final = (STEERING_REWARD, STEERING_ADVANTAGE, STEERING_TOKEN_SHARE)


def weight_metric(loss: str) -> str:
    """The metric of a term's automatic weight, from that of its loss: `sasft_loss` → `sasft_weight`."""
    return loss.replace("loss", "weight")


def cost_metric(loss: str) -> str:
    """The metric of a term's estimated cost, from that of its loss: `sasft_loss` → `sasft_cost`."""
    return loss.replace("loss", "cost")


def source_metric(source: str) -> str:
    """The share of tokens whose language is known from a source: `by_column`, `by_function` or `by_script`."""
    return f"{SASFT}{source}_share"


# A feature set, and the files beside it.
FEATURE_SET_METADATA: Final = "sae_posttrain"
"""Key in the metadata of a .safetensors file that marks it as a feature set."""
CALIBRATION_CURVE: Final = ".calibration.json"
CALIBRATION_RESPONSES: Final = ".calibration.jsonl"
LOOP_SAMPLE: Final = ".loops.jsonl"
CLASSES: Final = ".classes.json"

# JSON files. Each kind is recognised by a key that only this kind has.
TOP_CONTEXTS: Final = "top_contexts"
SWITCH_TRACES: Final = "switch_traces"
MODEL_DIFFS: Final = "model_diffs"
COVERAGE_CURVES: Final = "coverage_curves"
DIAGNOSIS: Final = "diagnosis"
TARGET_RATE: Final = "target_rate"
"""Key that marks the curve of a calibration."""
CLASS_DISCOVERY: Final = "class_discovery"
"""Key that marks how the features of classes were found, and how well they classify."""
BENCHMARK_REDUNDANCY: Final = "benchmark_redundancy"
BENCHMARK_OVERLAP: Final = "benchmark_overlap"
BENCHMARK_SELECTION: Final = "benchmark_selection"

# Columns that `measure --output` adds to a response.
UNEXPECTED: Final = "unexpected"
LOOP: Final = "loop"
THINKING: Final = "thinking_"
"""Prefix of a column about the thinking of a response. It is used only if the answer is measured too."""


class Finding(NamedTuple):
    """A column of findings. A response has the finding unless the column is empty or null.

    Args:
        column: name of the column that `measure --output` writes.
        title: title in the report for the answers with this finding.
        thinking_title: title in the report for thinking with this finding.
    """

    column: str
    title: str
    thinking_title: str


FINDINGS: Final = (
    Finding(UNEXPECTED, "Answers that leave their language", "Thinking that leaves its language"),
    Finding(LOOP, "Answers that end in an endless loop", "Thinking that ends in an endless loop"),
)
"""The findings that the report counts. A new measurement with its own column needs a line here."""
