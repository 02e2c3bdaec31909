"""Save the demo's code-switching data for its report: answers with their foreign words, and feature activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from ...artefacts import UNEXPECTED
from ...feature_set import FeatureSet
from ...inspection.contexts import contexts_to_json, top_contexts
from ...inspection.trace import find_passages, trace_switches, traces_to_json
from ...metrics import unexpected_spans
from ...sampling import Response
from ...texts import load_rows
from ..shared.record import arm_folder, write_json, write_rows
from .documents import monolingual_texts


def write_switching_answers(
    path: Path, asked: Sequence[Mapping[str, Any]], responses: Sequence[Sequence[Response]]
) -> None:
    """Write every answer with its prompt, language and foreign words, like `measure code-switching --output`."""
    rows = []
    for row, of_prompt in zip(asked, responses, strict=True):
        for response in of_prompt:
            spans = unexpected_spans(response.text, row["language"], count_latin=True)
            found = {**response.to_row(), UNEXPECTED: [asdict(span) for span in spans]}
            rows.append({"prompt": row["prompt"], "language": row["language"], **found})
    write_rows(path, rows)


def look_into_features(output: Path, arms: Sequence[str], suppress: str, seed: int) -> None:
    """Write the passages with the highest activations of the language features, and the traces around a switch.

    The base model and every arm read the same switches, which are those of the first arm.
    """
    features = FeatureSet.load(output / "sasft.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(output / "base")
    base = AutoModelForCausalLM.from_pretrained(output / "base")
    contexts = top_contexts(base, tokenizer, features, monolingual_texts(100, seed=50_000 + seed), batch_size=32)
    write_json(output / "contexts.json", contexts_to_json(contexts))
    rows = [row for path in sorted(arm_folder(output, arms[0]).glob("*.jsonl")) for row in load_rows(path)]
    try:
        passages = find_passages(tokenizer, rows, suppress)
    except ValueError:
        return  # the model was trained too little to switch; the report names the missing parts
    models = {"base model": base}
    for arm in arms:
        models[arm_folder(output, arm).name] = AutoModelForCausalLM.from_pretrained(arm_folder(output, arm))
    traces = [
        trace_switches(model, features, passages, suppress, name=name, batch_size=64) for name, model in models.items()
    ]
    write_json(output / "trace.json", traces_to_json(traces))
