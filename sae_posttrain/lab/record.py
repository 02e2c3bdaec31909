"""What the demo keeps for its report: each arm's answers, log and loss, and what its features do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from ..discovery.contexts import contexts_to_json, top_contexts
from ..discovery.trace import find_passages, trace_switches, traces_to_json
from ..feature_set import FeatureSet
from ..metrics import unexpected_spans
from ..report import write_report
from ..texts import load_rows
from .documents import monolingual_texts

ARMS = ("sft", "sasft", "random-features")


def answers_file(folder: Path, top_p: float) -> Path:
    return folder / f"top_p {top_p}.jsonl"


def write_answers(path: Path, asked: Sequence[Mapping[str, Any]], responses: Sequence[Sequence[str]]) -> None:
    """Every answer with its prompt, language and foreign words, as `measure --output` writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row, of_prompt in zip(asked, responses, strict=True):
            for response in of_prompt:
                spans = unexpected_spans(response, row["language"], count_latin=True)
                found = {"response": response, "unexpected": [asdict(span) for span in spans]}
                kept = {"prompt": row["prompt"], "language": row["language"], **found}
                file.write(json.dumps(kept, ensure_ascii=False) + "\n")


def write_demo_report(output: Path, suppress: str, seed: int) -> Path:
    """Look into the features of a finished demo, then write its report.

    The traces follow the same switches, those of the plain arm, through the base model and every arm.
    """
    features = FeatureSet.load(output / "sasft.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(output / "base")
    base = AutoModelForCausalLM.from_pretrained(output / "base")
    contexts = top_contexts(base, tokenizer, features, monolingual_texts(100, seed=50_000 + seed), batch_size=32)
    _write_json(output / "contexts.json", contexts_to_json(contexts))
    rows = [row for path in sorted((output / "sft").glob("*.jsonl")) for row in load_rows(path)]
    try:
        passages = find_passages(tokenizer, rows, suppress)
    except ValueError:
        passages = []  # too little training to switch at all; the report says what it has not
    if passages:
        models = {"base model": base}
        for arm in ARMS:
            models[arm] = AutoModelForCausalLM.from_pretrained(output / arm)
        traces = [
            trace_switches(model, features, passages, suppress, name=name, batch_size=64)
            for name, model in models.items()
        ]
        _write_json(output / "trace.json", traces_to_json(traces))
    return write_report([*(output / arm for arm in ARMS), output], output / "report.html")


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False) + "\n", encoding="utf-8")
