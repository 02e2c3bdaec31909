"""Train the rival `orpo` for one seed: ORPO on pairs of an answer and the same answer gone over to another language.

python recipes/real_weights/orpo.py --config recipes/real_weights/gemma3-270m-orpo.yaml \
    --model_name_or_path models/gemma3-270m-cut --texts real_weights/texts --into zh --seed 0 \
    --output_dir runs/orpo-zh-0
The chosen answers are those that the other arms train on. TRL's ORPOTrainer computes the loss of the chosen answer over
its prompt too. A run that is finished is left alone.
Source: arXiv:2505.19116 (language confusion), arXiv:2403.07691 (ORPO).
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # TRL's ORPO is of its experimental part

from datasets import Dataset
from result_rows import RECORD, commit, is_finished  # type: ignore[import-not-found]
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import ModelConfig, TrlParser, get_peft_config
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from sae_posttrain.texts import load_rows


@dataclass
class OrpoArguments:
    """What the arm needs beside the trainer's own settings."""

    texts: str = field(default="", metadata={"help": "Folder that texts.py wrote; train.jsonl in it is read."})
    into: list[str] = field(
        default_factory=lambda: ["zh"], metadata={"help": "Languages that must not be gone over to."}
    )
    label: str | None = field(default=None, metadata={"help": "Name of the arm in the results."})


def main(arguments: Sequence[str] | None = None) -> Path:
    """Train the arm unless it is finished; returns its folder."""
    parser = TrlParser((OrpoArguments, ORPOConfig, ModelConfig))
    recipe, training, model = parser.parse_args_and_config(list(arguments) if arguments is not None else None)
    folder = Path(training.output_dir)
    described = {
        "arm": "orpo",
        "label": recipe.label or f"orpo {'+'.join(recipe.into)} {training.beta:g}",
        "seed": training.seed,
        "model": Path(str(model.model_name_or_path)).name,
        "base": str(model.model_name_or_path),
        "learning_rate": training.learning_rate,
        "max_steps": training.max_steps,
        "suppress": recipe.into,
    }
    if is_finished(folder, described):
        return folder
    set_seed(training.seed)
    rows = load_rows(Path(recipe.texts, "train.jsonl"))
    trainer = ORPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model.model_name_or_path, dtype=model.dtype),
        args=training,
        train_dataset=Dataset.from_list(list(pairs(rows, recipe.into, training.seed))),
        processing_class=AutoTokenizer.from_pretrained(model.model_name_or_path),
        peft_config=get_peft_config(model),
    )
    trainer.train()
    trainer.save_model(training.output_dir)
    trainer.save_state()
    (folder / RECORD).write_text(json.dumps({**described, "commit": commit()}, indent=2) + "\n", encoding="utf-8")
    return folder


def pairs(rows: Sequence[dict[str, Any]], into: Sequence[str], seed: int) -> Iterator[dict[str, str]]:
    """Of each row its answer, and the answer that goes over to another language somewhere in its middle half.

    The other language is one of `into`. Of a row in the only language of `into`, it is any other of the rows.
    """
    drawn = random.Random(seed)
    answers: dict[str, list[str]] = {}
    for row in rows:
        answers.setdefault(row["language"], []).append(row["completion"])
    for row in rows:
        others = [code for code in into if code != row["language"]]
        others = others or [code for code in answers if code != row["language"]]
        other = drawn.choice(answers[drawn.choice(others)])
        cut = round(len(row["completion"]) * drawn.uniform(0.25, 0.75))
        yield {
            "prompt": row["prompt"],
            "chosen": row["completion"],
            "rejected": f"{row['completion'][:cut]} {other.strip()}",
        }


if __name__ == "__main__":
    main()
