"""Train one arm of the experiment on repetition for one seed. repetition_rates.py measures what it leaves.

python recipes/real_weights/repetition.py --config recipes/real_weights/smollm2-135m.yaml \
    --model_name_or_path models/smollm2-135m --texts real_weights/texts \
    --features real_weights/repetition-22.safetensors --arm steered --seed 0 --output_dir runs/repetition-steered-0
A run that is finished is left alone, so the same commands can be given again after an interruption.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from datasets import Dataset
from result_rows import RECORD, commit, is_finished  # type: ignore[import-not-found]
from story_reward import about_the_subject  # type: ignore[import-not-found]
from transformers import set_seed
from trl import ModelConfig, TrlParser, get_peft_config

from sae_posttrain import FeatureSet, SteeredGRPOConfig, SteeredGRPOTrainer
from sae_posttrain.steering import typical_contributions
from sae_posttrain.texts import load_rows
from sae_posttrain.training.rewards import LoopPenalty

# The settings of SteeredGRPOConfig that make an arm what it is.
ARMS: dict[str, dict[str, Any]] = {
    "dapo": {"steered_per_group": 0},
    "steered": {"steering_control": "features"},
    "random_direction": {"steering_control": "random_direction"},
    "extra_plain": {"steering_control": "extra_plain"},
    "dense": {"steering_control": "features"},
    "greedy_rollout": {"steering_control": "greedy_rollout"},
}
NEEDS_FEATURES = ("steered", "random_direction", "dense")
LOGGED = ("loop_rate/steered", "loop_rate/ordinary", "steering/advantage", "steering/reward", "reward")


@dataclass
class RepetitionArguments:
    """What an arm needs beside the trainer's own settings."""

    arm: str = field(default="steered", metadata={"help": f"One of {', '.join(ARMS)}."})
    texts: str = field(default="", metadata={"help": "Folder with story_prompts.jsonl, which prompts.py writes."})
    dense_features: str | None = field(
        default=None,
        metadata={"help": "For arm dense: the dense direction, by `discover repetition --select dense`."},
    )
    label: str | None = field(default=None, metadata={"help": "Name of the arm in the results; default: the arm."})


def main(arguments: Sequence[str] | None = None) -> Path:
    """Train the arm unless it is finished; returns its folder."""
    parser = TrlParser((RepetitionArguments, SteeredGRPOConfig, ModelConfig))
    recipe, training, model = parser.parse_args_and_config(list(arguments) if arguments is not None else None)
    check(recipe, training)
    folder = Path(training.output_dir)
    described = describe(recipe, training, model)
    if is_finished(folder, described):
        return folder
    for name, value in ARMS[recipe.arm].items():
        setattr(training, name, value)
    set_seed(training.seed)
    began = time.process_time()
    trainer = make_trainer(recipe, training, model)
    trainer.train()
    trainer.save_model(training.output_dir)
    trainer.save_state()
    record = {
        **described,
        "alpha": trainer.source.alpha,
        "cpu_seconds": round(time.process_time() - began, 1),
        "logged": {name: mean_logged(trainer, name) for name in LOGGED},
        "commit": commit(),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return folder


def check(recipe: RepetitionArguments, training: SteeredGRPOConfig) -> None:
    """Say what is missing before anything is loaded."""
    if recipe.arm not in ARMS:
        raise ValueError(f"arm={recipe.arm!r}: expected one of {', '.join(ARMS)}.")
    if not Path(recipe.texts, "story_prompts.jsonl").is_file():
        raise FileNotFoundError(f"texts={recipe.texts!r} holds no story_prompts.jsonl; prompts.py writes it.")
    if recipe.arm in NEEDS_FEATURES and not training.features:
        raise ValueError(f"arm={recipe.arm} needs features.")
    if recipe.arm == "dense" and not recipe.dense_features:
        raise ValueError("arm=dense needs dense_features, beside the features whose norm they are given.")


def describe(recipe: RepetitionArguments, training: SteeredGRPOConfig, model: ModelConfig) -> dict[str, Any]:
    """The name of the arm and what makes it what it is."""
    shared = ("learning_rate", "max_steps", "num_generations", "max_completion_length", "temperature", "off_policy")
    how = ("steering_alpha", "greedy_rollout_temperature")
    return {
        "arm": recipe.arm,
        "label": recipe.label or recipe.arm,
        "seed": training.seed,
        "model": Path(str(model.model_name_or_path)).name,
        "base": str(model.model_name_or_path),
        **{name: getattr(training, name) for name in (*shared, *how)},
        "prompts_per_step": training.generation_batch_size // training.num_generations,
    }


def make_trainer(recipe: RepetitionArguments, training: SteeredGRPOConfig, model: ModelConfig) -> SteeredGRPOTrainer:
    """The trainer of an arm: the task, and a penalty for loops and near-loops."""
    training.model_init_kwargs = {"dtype": model.dtype, **(training.model_init_kwargs or {})}
    features = FeatureSet.load(str(training.features)) if recipe.arm in NEEDS_FEATURES else None
    if recipe.arm == "dense":
        dense = FeatureSet.load(str(recipe.dense_features))
        training.steering_alpha = alpha_of_equal_norm(features, training.steering_alpha, dense)
        features = dense
    rows = load_rows(Path(recipe.texts, "story_prompts.jsonl"))
    prompts = [{"prompt": [{"role": "user", "content": row["prompt"]}], "subject": row["subject"]} for row in rows]
    return SteeredGRPOTrainer(
        model=model.model_name_or_path,
        args=training,
        reward_funcs=[
            about_the_subject,
            LoopPenalty(loop_settings=training.loop_settings, unit="tokens", near_loops=True),
        ],
        train_dataset=Dataset.from_list(prompts),
        peft_config=get_peft_config(model),
        features=features,
    )


def alpha_of_equal_norm(features: Any, alpha: float | None, dense: FeatureSet) -> float:
    """The strength at which the dense direction adds a vector as long as the features' does."""
    strength = features.alpha if alpha is None else alpha
    own, other = typical_contributions(features), typical_contributions(dense)
    if len(own) != 1 or own.keys() != other.keys():
        raise ValueError(f"Features of layers {sorted(own)}, dense of {sorted(other)}: expected one layer, the same.")
    (layer,) = own
    return float(strength * own[layer].norm() / other[layer].norm())


def mean_logged(trainer: SteeredGRPOTrainer, name: str) -> float | None:
    """The mean of a metric over the run; None if it was not logged."""
    values = [entry[name] for entry in trainer.state.log_history if name in entry]
    return round(fmean(values), 4) if values else None


if __name__ == "__main__":
    main()
