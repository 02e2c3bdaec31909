"""Train one arm of the code-switching experiment for one seed. evaluate.py measures what it leaves.

python recipes/real_weights/arm.py --config recipes/real_weights/gemma3-270m.yaml \
    --model_name_or_path models/gemma3-270m-cut --texts real_weights/texts \
    --features real_weights/features.safetensors --arm sasft --suppress zh --seed 0 --output_dir runs/sasft-zh-0
A run that is finished is left alone, so the same commands can be given again after an interruption.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from result_rows import RECORD, commit, is_finished  # type: ignore[import-not-found]
from transformers import set_seed
from trl import ModelConfig, SFTTrainer, TrlParser, get_peft_config

from sae_posttrain import SASFTConfig, SASFTTrainer
from sae_posttrain.texts import load_rows

ARMS = {
    "sft": "plain SFT",
    "sasft": "SASFT with the features of --features",
    "random_features": "the control: SASFT with features that were drawn at random, in --features",
    "token_mass": "unlikelihood of the suppressed languages' tokens with --token_weight, without features",
    "sasft+token_mass": "both terms",
}


@dataclass
class ArmArguments:
    """What an arm needs beside the trainer's own settings."""

    arm: str = field(default="sasft", metadata={"help": f"One of {', '.join(ARMS)}."})
    texts: str = field(default="", metadata={"help": "Folder that texts.py wrote; train.jsonl in it is read."})
    languages: list[str] | None = field(
        default=None, metadata={"help": "Train on the rows of these languages only. Default: all."}
    )
    labelled: float = field(
        default=1.0,
        metadata={
            "help": "Share of the rows whose language is known, the first ones of train.jsonl. The language column of "
            "the others is empty."
        },
    )
    label: str | None = field(
        default=None, metadata={"help": "Name of the arm in the results; by default made of arm, languages and weight."}
    )


def main(arguments: Sequence[str] | None = None) -> Path:
    """Train the arm unless it is finished; returns its folder."""
    parser = TrlParser((ArmArguments, SASFTConfig, ModelConfig))
    recipe, training, model = parser.parse_args_and_config(list(arguments) if arguments is not None else None)
    check(recipe, training)
    folder = Path(training.output_dir)
    described = describe(recipe, training, model)
    if is_finished(folder, described):
        return folder
    set_seed(training.seed)
    trainer = make_trainer(recipe, training, model)
    trainer.train()
    trainer.save_model(training.output_dir)
    trainer.save_state()
    (folder / RECORD).write_text(json.dumps({**described, "commit": commit()}, indent=2) + "\n", encoding="utf-8")
    return folder


def check(recipe: ArmArguments, training: SASFTConfig) -> None:
    """Say what is missing before anything is loaded."""
    if recipe.arm not in ARMS:
        raise ValueError(f"arm={recipe.arm!r}: expected one of {', '.join(ARMS)}.")
    if not Path(recipe.texts, "train.jsonl").is_file():
        raise FileNotFoundError(f"texts={recipe.texts!r} holds no train.jsonl; texts.py writes it.")
    missing = [name for name in needed(recipe.arm) if not getattr(training, name)]
    if missing:
        raise ValueError(f"arm={recipe.arm} needs {' and '.join(missing)}.")
    if "token_mass" not in recipe.arm and training.token_weight is not None:
        raise ValueError(f"arm={recipe.arm} takes no token_weight; arm token_mass and sasft+token_mass do.")
    if recipe.arm == "token_mass":
        training.features = None  # the YAML may name one


def needed(arm: str) -> list[str]:
    """The settings that an arm cannot do without."""
    features = ["features"] if arm in ("sasft", "random_features", "sasft+token_mass") else []
    token = ["token_weight"] if "token_mass" in arm else []
    return [*features, *token, *(["suppress"] if arm != "sft" else [])]


def describe(recipe: ArmArguments, training: SASFTConfig, model: ModelConfig) -> dict[str, Any]:
    """The name of the arm and what makes it what it is."""
    described: dict[str, Any] = {
        "arm": recipe.arm,
        "label": recipe.label or recipe.arm,
        "seed": training.seed,
        "model": Path(str(model.model_name_or_path)).name,
        "base": str(model.model_name_or_path),
        "learning_rate": training.learning_rate,
        "max_steps": training.max_steps,
    }
    described |= {"languages": recipe.languages} if recipe.languages else {}
    described |= {"labelled": recipe.labelled} if recipe.labelled < 1 else {}
    described |= {"lora_r": model.lora_r} if model.lora_r != 16 else {}
    if recipe.arm == "sft":
        return described
    described["suppress"] = training.suppress
    weights: list[float | str | None] = []
    if "features" in needed(recipe.arm):
        weights.append(training.sasft_weight)
        described |= {name: getattr(training, name) for name in ("sasft_weight", "sasft_scale", "sasft_baseline")}
        described["features"] = Path(str(training.features)).name
        described |= {"loss_budget": training.sasft_loss_budget} if training.sasft_weight == "auto" else {}
    if training.token_weight is not None:
        weights.append(training.token_weight)
        described |= {"token_weight": training.token_weight, "token_share": training.token_share}
        described |= {"token_counts": Path(str(training.token_counts)).name} if training.token_counts else {}
    named = [f"{weight:g}" if isinstance(weight, float) else str(weight) for weight in weights]
    label = " ".join([recipe.arm, "+".join(training.suppress), *named])
    return {**described, "label": recipe.label or label}


def make_trainer(recipe: ArmArguments, training: SASFTConfig, model: ModelConfig) -> SFTTrainer:
    training.model_init_kwargs = {"dtype": model.dtype, **(training.model_init_kwargs or {})}
    common: dict[str, Any] = {
        "train_dataset": Dataset.from_list(training_rows(recipe)),
        "peft_config": get_peft_config(model),
    }
    kind = SFTTrainer if recipe.arm == "sft" else SASFTTrainer
    return kind(model.model_name_or_path, training, **common)


def training_rows(recipe: ArmArguments) -> list[dict[str, Any]]:
    """The rows that the arm trains on, with the languages that it may know."""
    rows = [dict(row) for row in load_rows(Path(recipe.texts, "train.jsonl"))]
    if recipe.languages:
        rows = [row for row in rows if row["language"] in recipe.languages]
    for row in rows[round(recipe.labelled * len(rows)) :]:
        row["language"] = ""
    return rows


if __name__ == "__main__":
    main()
