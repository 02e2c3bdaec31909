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
