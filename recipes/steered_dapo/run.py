"""Train one variant of DAPO for one seed on a small model, and measure how often its answers end in a loop.

Writes features.safetensors, calibration.txt, the model, answers.jsonl and results.csv into output_dir.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from sentences import load_sentences, prompt_of, told  # type: ignore[import-not-found]
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import ModelConfig, TrlParser, get_peft_config
from trl.rewards import get_soft_overlong_punishment

from sae_posttrain import FeatureSet, SteeredGRPOConfig, SteeredGRPOTrainer, discover_repetition_features
from sae_posttrain.lab.shared.results import append_results
from sae_posttrain.metrics import Share, repetition_rate
from sae_posttrain.sampling import SamplingSettings, encode_prompts, sample_responses
from sae_posttrain.steering import calibrate
from sae_posttrain.training.rewards import LoopPenalty

# What makes a variant what it is, and what it trains from; `base` is measured as it is.
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {"steered_per_group": 0},
    "vanilla": {"steered_per_group": 0},
    "steered": {"steering_control": "features"},
    "random_direction": {"steering_control": "random_direction"},
    "extra_plain": {"steering_control": "extra_plain"},
}
STEERED = ("steered", "random_direction", "extra_plain")
SPELLED = 5  # words of an answer that the task looks at; the shortest training answer has as many


@dataclass
class RecipeArguments:
    """What the recipe needs beside the trainer's own settings."""

    sae: str = field(default="", metadata={"help": "Folder of the sparse autoencoders."})
    text: str = field(default="", metadata={"help": "File of texts that the model was made from."})
    variant: str = field(default="steered", metadata={"help": ", ".join(VARIANTS)})
    layers: list[int] = field(default_factory=list, metadata={"help": "0-based decoder blocks to find features in."})
    top: int = field(default=4, metadata={"help": "Features per layer."})
    loops: int = field(default=100, metadata={"help": "Stuck training sentences that discovery reads."})
    alphas: list[float] = field(default_factory=list, metadata={"help": "Strengths that calibration tries."})
    target_rate: float = field(default=0.4, metadata={"help": "Share of steered answers that should loop."})
    max_ratio: float = field(default=2.0, metadata={"help": "How much less fluent the text before may become."})
    calibration_prompts: int = field(default=150, metadata={"help": "Training prompts that calibration answers."})
    soft_overlong_cache: int = field(default=20, metadata={"help": "Tokens before the limit that are punished."})
    prompts: int = field(default=1000, metadata={"help": "Held-out prompts to measure on."})
    temperatures: list[float] = field(default_factory=list, metadata={"help": "Temperatures to measure at."})
    samples: list[int] = field(default_factory=list, metadata={"help": "Answers per prompt at each of them."})
    sampling_batch_size: int = field(default=1000, metadata={"help": "Answers sampled at once."})
    results: str | None = field(default=None, metadata={"help": "CSV to append to; results.csv in output_dir."})


@dataclass(frozen=True)
class Measured:
    """Unsteered answers to held-out prompts, at one temperature."""

    temperature: float
    loops: Share
    task_reward: float
    words: float  # of an answer, in the mean: what is short holds no loops


class Spelling:
    """The task: the share of the answer's first words that are words. Neutral to an answer's length beyond them."""

    __name__ = "spelling"

    def __init__(self, sentences: Sequence[str]) -> None:
        self.words = {word for sentence in sentences for word in re.findall(r"[a-z']+", sentence)}

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], **kwargs: Any) -> list[float]:
        said = (re.findall(r"[a-z']+", completion)[:SPELLED] for completion in completions)
        return [sum(word in self.words for word in words) / SPELLED for words in said]


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the recipe; returns the rows it wrote."""
    parser = TrlParser((RecipeArguments, SteeredGRPOConfig, ModelConfig))
    recipe, training, model_config = parser.parse_args_and_config(list(arguments) if arguments is not None else None)
    check(recipe, training)
    for name, value in VARIANTS[recipe.variant].items():
        setattr(training, name, value)
    train, held_out = load_sentences(recipe.text)
    task = Spelling(train)
    tokenizer = AutoTokenizer.from_pretrained(model_config.model_name_or_path)
    model = AutoModelForCausalLM.from_pretrained(model_config.model_name_or_path)
    Path(training.output_dir).mkdir(parents=True, exist_ok=True)
    features = None
    if recipe.variant in STEERED:
        features = FeatureSet.load(training.features) if training.features else None
        features = features or find_features(recipe, training, model, tokenizer, train)
    trained = model
    steered_loops = ""
    if recipe.variant != "base":
        trainer = reinforce(recipe, training, model_config, model, tokenizer, task, train, features)
        trainer.save_model(training.output_dir)
        trained = trainer.model
        steered_loops = logged(trainer, "loop_rate/steered")
    measured = measure(trained.eval(), tokenizer, recipe, training, task, held_out)
    return write(recipe, training, model_config, features, steered_loops, measured)


def check(recipe: RecipeArguments, training: SteeredGRPOConfig) -> None:
    """Say what is missing before anything is loaded."""
    if recipe.variant not in VARIANTS:
        raise ValueError(f"variant={recipe.variant!r}: expected one of {', '.join(VARIANTS)}.")
    if not Path(recipe.text).is_file():
        raise FileNotFoundError(f"text={recipe.text!r} is no file; it is what make.py was given.")
    if len(recipe.samples) != len(recipe.temperatures):
        raise ValueError(f"samples={recipe.samples} and temperatures={recipe.temperatures}: expected as many of each.")
    if recipe.variant in STEERED and not (training.features or recipe.sae):
        raise ValueError(f"variant={recipe.variant} needs sae, or features that were found before.")


def find_features(
    recipe: RecipeArguments, training: SteeredGRPOConfig, model: Any, tokenizer: Any, train: Sequence[str]
) -> FeatureSet:
    """Features of sentences that are stuck, as in training, and the weakest strength that makes the model loop."""
    draw, rng = told(tokenizer, train, stuck=1.0), random.Random(training.seed)
    texts = [draw(rng)[: 2 * training.max_completion_length] for _ in range(recipe.loops)]
    least: dict[str, Any] = {"loop_settings": training.loop_settings}
    found = discover_repetition_features(
        model, tokenizer, recipe.sae, texts=texts, layers=recipe.layers, top=recipe.top, batch_size=32, **least
    )
    curve = calibrate(
        model,
        tokenizer,
        found,
        list(dict.fromkeys(map(prompt_of, train)))[: recipe.calibration_prompts],
        alphas=recipe.alphas,
        top=[recipe.top],
        target_rate=recipe.target_rate,
        max_ratio=recipe.max_ratio,
        sampling=SamplingSettings(training.temperature, 1.0, training.max_completion_length, seed=training.seed),
        batch_size=recipe.sampling_batch_size,
        **least,
    )
    (Path(training.output_dir) / "calibration.txt").write_text(f"{found.summary()}\n\n{curve.table()}\n", "utf-8")
    features = curve.calibrated()
    features.save(Path(training.output_dir) / "features.safetensors")
    return features


def reinforce(
    recipe: RecipeArguments,
    training: SteeredGRPOConfig,
    model_config: ModelConfig,
    model: Any,
    tokenizer: Any,
    task: Spelling,
    train: Sequence[str],
    features: FeatureSet | None,
) -> SteeredGRPOTrainer:
    """DAPO on the task, with loops and overlong answers punished."""
    set_seed(training.seed)
    loops = LoopPenalty(loop_settings=training.loop_settings, unit="tokens")
    overlong = get_soft_overlong_punishment(training.max_completion_length, recipe.soft_overlong_cache)
    trainer = SteeredGRPOTrainer(
        model=model,
        args=training,
        reward_funcs=[task, loops, overlong],
        train_dataset=Dataset.from_list([{"prompt": prompt_of(sentence)} for sentence in train]),
        processing_class=tokenizer,
        peft_config=get_peft_config(model_config),
        features=features,
    )
    trainer.train()
    return trainer


def logged(trainer: SteeredGRPOTrainer, name: str) -> str:
    """The mean of a metric over the run."""
    values = [entry[name] for entry in trainer.state.log_history if name in entry]
    return f"{fmean(values):.3f}" if values else ""


@torch.no_grad()
def measure(
    model: Any,
    tokenizer: Any,
    recipe: RecipeArguments,
    training: SteeredGRPOConfig,
    task: Spelling,
    held_out: Sequence[str],
) -> list[Measured]:
    """Sample answers to held-out prompts, unsteered."""
    prompts = list(dict.fromkeys(map(prompt_of, held_out)))[: recipe.prompts]
    encoded = encode_prompts(tokenizer, prompts, chat=False)
    at_one = SamplingSettings(1.0, 1.0, training.max_completion_length, seed=training.seed)
    measured = []
    with open(Path(training.output_dir) / "answers.jsonl", "w", encoding="utf-8") as file:
        for temperature, samples in zip(recipe.temperatures, recipe.samples, strict=True):
            rows, asked = encoded * samples, prompts * samples
            warm, size = replace(at_one, temperature=temperature), recipe.sampling_batch_size
            # One row for each response, also at temperature 0.
            each = sample_responses(model, tokenizer, rows, warm, samples=1, batch_size=size, progress=False)
            found = [one for (one,) in each]
            answers = [one.text for one in found]
            file.writelines(
                json.dumps(
                    {
                        **{"temperature": temperature, "prompt": prompt, "answer": one.text},
                        **{"finish_reason": one.finish_reason, "tokens": one.tokens},
                    }
                )
                + "\n"
                for prompt, one in zip(asked, found, strict=True)
            )
            report = repetition_rate(
                [one.ids for one in found],
                clusters=asked,
                settings=training.loop_settings,
                ended=[one.ended for one in found],
            )
            words = fmean(len(answer.split()) for answer in answers)
            measured.append(Measured(temperature, report.loops, fmean(task(asked, answers)), words))
    return measured


def write(
    recipe: RecipeArguments,
    training: SteeredGRPOConfig,
    model_config: ModelConfig,
    features: FeatureSet | None,
    steered_loops: str,
    measured: Sequence[Measured],
) -> list[dict[str, Any]]:
    """Append a row for each temperature to the CSV."""
    strength = "" if features is None else training.steering_alpha or features.alpha
    trained = recipe.variant != "base"
    rows = [
        {
            "recipe": "steered_dapo+lora" if model_config.use_peft else "steered_dapo",
            "variant": recipe.variant,
            "seed": training.seed,
            "layers": "" if features is None else " ".join(str(layer.layer) for layer in features.layers),
            "features": "" if features is None else recipe.top,
            "alpha": strength,
            "lr": training.learning_rate if trained else "",
            "steps": training.max_steps if trained else 0,
            "rollouts": training.max_steps * training.per_device_train_batch_size if trained else 0,
            "masks_truncated": training.mask_truncated_completions if trained else "",
            "token_share_cap": training.max_steered_token_share if features is not None else "",
            "steered_loop_rate": steered_loops,
            "temperature": one.temperature,
            "looped": one.loops.hits,
            "total": one.loops.total,
            **{name: f"{getattr(one.loops, name):.5f}" for name in ("rate", "low", "high")},
            "task_reward": f"{one.task_reward:.4f}",
            "words": f"{one.words:.2f}",
        }
        for one in measured
    ]
    append_results(Path(recipe.results or Path(training.output_dir) / "results.csv"), rows, __file__)
    for row in rows:
        print(", ".join(f"{name} {row[name]}" for name in ("variant", "temperature", "rate", "task_reward")))
    return rows


if __name__ == "__main__":
    main()
