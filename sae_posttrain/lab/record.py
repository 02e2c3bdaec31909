"""What the demo keeps for its report: each arm's answers, log and numbers, and what its features do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, Trainer
from transformers.trainer import TRAINER_STATE_NAME

from ..discovery.contexts import contexts_to_json, top_contexts
from ..discovery.trace import find_passages, trace_switches, traces_to_json
from ..feature_set import FeatureSet
from ..generation import Response
from ..metrics import find_loop, unexpected_spans
from ..texts import load_rows
from .documents import monolingual_texts


def arm_folder(output: Path, arm: str) -> Path:
    return output / arm.lower().replace(" ", "-")


def write_log(folder: Path, trainer: Trainer) -> None:
    """The curves of a training run."""
    folder.mkdir(parents=True, exist_ok=True)
    trainer.state.save_to_json(str(folder / TRAINER_STATE_NAME))


def write_numbers(folder: Path, numbers: Mapping[str, float]) -> None:
    """What was measured beside the rates."""
    (folder / "eval_results.json").write_text(json.dumps(numbers) + "\n", encoding="utf-8")


def write_switching_answers(
    path: Path, asked: Sequence[Mapping[str, Any]], responses: Sequence[Sequence[Response]]
) -> None:
    """Every answer with its prompt, language and foreign words, as `measure code-switching --output` writes them."""
    rows = []
    for row, of_prompt in zip(asked, responses, strict=True):
        for response in of_prompt:
            spans = unexpected_spans(response.text, row["language"], count_latin=True)
            found = {**_columns(response), "unexpected": [asdict(span) for span in spans]}
            rows.append({"prompt": row["prompt"], "language": row["language"], **found})
    _write_rows(path, rows)


def write_looping_answers(
    path: Path,
    asked: Sequence[Mapping[str, Any]],
    answers: Sequence[Response],
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Every answer with its prompt and loop, as `measure repetition --output` writes them; loops are of tokens."""

    def text(ids: Sequence[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True)

    rows = []
    for row, answer in zip(asked, answers, strict=True):
        ids = answer.ids
        loop = find_loop(ids)
        found = None
        if loop is not None:
            start, again = len(text(ids[: loop.start])), len(text(ids[: loop.start + loop.period]))
            found = {"start": start, "end": len(answer.text), "period": again - start}
        rows.append({"prompt": row["prompt"], **_columns(answer), "loop": found})
    _write_rows(path, rows)


def _columns(answer: Response) -> dict[str, Any]:
    return {"response": answer.text, "finish_reason": answer.finish_reason, "tokens": answer.tokens}


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def look_into_features(output: Path, arms: Sequence[str], suppress: str, seed: int) -> None:
    """What excites the features of language, and the traces around a switch, of a finished half of the demo.

    The traces follow the same switches, those of the first arm, through the base model and every arm.
    """
    features = FeatureSet.load(output / "sasft.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(output / "base")
    base = AutoModelForCausalLM.from_pretrained(output / "base")
    contexts = top_contexts(base, tokenizer, features, monolingual_texts(100, seed=50_000 + seed), batch_size=32)
    _write_json(output / "contexts.json", contexts_to_json(contexts))
    rows = [row for path in sorted(arm_folder(output, arms[0]).glob("*.jsonl")) for row in load_rows(path)]
    try:
        passages = find_passages(tokenizer, rows, suppress)
    except ValueError:
        return  # too little training to switch at all; the report says what it has not
    models = {"base model": base}
    for arm in arms:
        models[arm_folder(output, arm).name] = AutoModelForCausalLM.from_pretrained(arm_folder(output, arm))
    traces = [
        trace_switches(model, features, passages, suppress, name=name, batch_size=64) for name, model in models.items()
    ]
    _write_json(output / "trace.json", traces_to_json(traces))


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False) + "\n", encoding="utf-8")
