"""Names in the files that one room writes and another reads: file names, keys of JSON objects, columns of rows.

Writers and readers import them from here, so that neither can change a name without the other. This module imports
nothing; every room may import it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

# The folder of a training run.
TRAINER_STATE: Final = "trainer_state.json"
"""The name that transformers gives it; its `log_history` holds the curves."""
EVAL_RESULTS: Final = "eval_results.json"
"""The name that `Trainer.save_metrics("eval", …)` gives it."""
CALLBACK_STATES: Final = "stateful_callbacks"
"""The key of the trainer state under which callbacks keep theirs."""
SASFT_STATE: Final = "SASFT"
"""The key of SASFT's own state there."""
SUPPRESS: Final = "suppress"
"""The key in it that holds the suppressed languages."""

# A feature set, and what is written beside it.
FEATURE_SET_METADATA: Final = "sae_posttrain"
"""The key in the metadata of a .safetensors file that marks it as a feature set."""
CALIBRATION_CURVE: Final = ".calibration.json"
CALIBRATION_RESPONSES: Final = ".calibration.jsonl"
LOOP_SAMPLE: Final = ".loops.jsonl"
CLASSES: Final = ".classes.json"

# JSON files, each known by the one key that only its kind has.
TOP_CONTEXTS: Final = "top_contexts"
SWITCH_TRACES: Final = "switch_traces"
TARGET_RATE: Final = "target_rate"
"""Marks the curve of a calibration."""
CLASS_DISCOVERY: Final = "class_discovery"
"""Marks how features of classes were found, and how well they tell the class."""
BENCHMARK_REDUNDANCY: Final = "benchmark_redundancy"
BENCHMARK_OVERLAP: Final = "benchmark_overlap"
BENCHMARK_SELECTION: Final = "benchmark_selection"

# Columns that `measure --output` adds to a response.
UNEXPECTED: Final = "unexpected"
LOOP: Final = "loop"
THINKING: Final = "thinking_"
"""The beginning of a column's name where it is about the thinking of a response, and the answer is measured too."""


class Finding(NamedTuple):
    """What a column says of a response: something was found in it, unless the column is empty or null.

    Args:
        column: the column that `measure --output` writes.
        title: how the report calls the answers in which something was found.
        thinking_title: likewise, of thinking.
    """

    column: str
    title: str
    thinking_title: str


FINDINGS: Final = (
    Finding(UNEXPECTED, "Answers that leave their language", "Thinking that leaves its language"),
    Finding(LOOP, "Answers that end in an endless loop", "Thinking that ends in an endless loop"),
)
"""What the report counts. A new measurement with a column of its own gets a line here."""
