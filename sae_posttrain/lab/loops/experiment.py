"""Train DAPO in four arms from one checkpoint with the same number of rollouts; measure loop rate and task reward."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback

from ...feature_set import FeatureSet
from ...metrics.messages import text_of
from ...metrics.repetition import RepetitionReport, repetition_rate
from ...sampling import SamplingSettings, encode_prompts, sampler
from ...training.rewards import LoopPenalty
from ...training.rollouts import SteeredGRPOConfig, SteeredGRPOTrainer
from ..shared.jobs import Jobs, at_once
from ..shared.lexicon import CONCEPTS, PUNCTUATION, symbol
from ..shared.record import arm_folder, write_log, write_numbers
from .documents import LANGUAGE, story_prompts
from .record import write_looping_answers
from .world import MAX_TOKENS

Arm = Literal["DAPO", "steered DAPO", "random direction", "extra plain"]
# The settings of `SteeredGRPOConfig` that define each arm.
ARMS: dict[Arm, dict[str, Any]] = {
    "DAPO": {"steered_per_group": 0},
    "steered DAPO": {"steering_control": "features"},
    "random direction": {"steering_control": "random_direction"},
    "extra plain": {"steering_control": "extra_plain"},
}
# "extra plain" is left out, because in this world it is bit-identical to DAPO.
IN_DEMO: tuple[Arm, ...] = ("DAPO", "steered DAPO", "random direction")
BEFORE = "before RL"
HELD_OUT_SEED = 90_000


@dataclass(frozen=True)
class Settings:
    """The settings that all arms share."""

    steps: int = 20
    prompts: int = 16  # per step
    group: int = 8
    learning_rate: float = 1e-4
    measured: int = 1000  # number of held-out prompts
    samples: int = 4
    temperatures: tuple[float, ...] = (0.6, 1.0)  # the last one is also used in training


DEMO = Settings()
BENCHMARK = Settings()


@dataclass(frozen=True)
class Outcome:
    """The measurements of one arm on held-out prompts, by temperature."""

    arm: str
    repetition: dict[float, RepetitionReport]
    task_reward: dict[float, float]
    unfinished: dict[float, float]  # share of answers that reached the token limit, with or without a loop


def described(prompts: Sequence[Any], completions: Sequence[Any], **kwargs: Any) -> list[float]:
    """The task reward: half for a place and half for a quality in a story's first sentence. Length does not help."""
    stories = [text_of(completion, "assistant") for completion in completions]
    firsts = [story.split(PUNCTUATION[LANGUAGE]["."])[0] for story in stories]
    return [(_names("place", first) + _names("quality", first)) / 2 for first in firsts]


def _names(role: str, sentence: str) -> bool:
    return any(symbol(concept, LANGUAGE) in sentence for concept in CONCEPTS[role])


def run_arms(
    checkpoint: Path,
    features: Path,
    seed: int,
    settings: Settings,
    *,
    arms: Sequence[Arm] = IN_DEMO,
    output: Path | None = None,
    jobs: Jobs = at_once,
    say: Callable[[str], None] = lambda line: None,
) -> list[Outcome]:
    """Train every arm from the base model, measure it on the same prompts, and save the models in `output`.

    `features` is the path of a feature set.
    """
    started = [jobs(run_arm, arm, checkpoint, features, seed, settings, output=output) for arm in arms]
    outcomes = []
    for job in started:
        outcomes.append(job.result())
        say(f"  {outcome_line(outcomes[-1])}")
    return outcomes


def run_arm(
    arm: Arm, checkpoint: Path, features: Path, seed: int, settings: Settings, *, output: Path | None = None
) -> Outcome:
    """Train and measure one arm, and save its model, log and answers in `output`."""
    folder = None if output is None else arm_folder(output, arm)
    model = reinforce(checkpoint, arm, FeatureSet.load(features), seed, settings, folder=folder)
    return _measure_and_keep(arm, model, checkpoint, settings, folder)


def measure_base(checkpoint: Path, settings: Settings, *, output: Path | None = None) -> Outcome:
    """Measure the base model, from which every arm starts, and save its answers in `output`."""
    folder = None if output is None else arm_folder(output, BEFORE)
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    return _measure_and_keep(BEFORE, model, checkpoint, settings, folder)


def _measure_and_keep(
    arm: str, model: PreTrainedModel, checkpoint: Path, settings: Settings, folder: Path | None
) -> Outcome:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    outcome = measure(arm, model, tokenizer, settings, folder=folder)
    if folder is not None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return outcome


def outcome_line(outcome: Outcome) -> str:
    """One line with the rates of an arm."""
    rates = ", ".join(f"{report.rate:.2%} at temperature {t}" for t, report in outcome.repetition.items())
    return f"{outcome.arm}: {rates} end in a loop"


def reinforce(
    checkpoint: Path, arm: Arm, features: FeatureSet, seed: int, settings: Settings, *, folder: Path | None = None
) -> PreTrainedModel:
    """Train the checkpoint with DAPO on the task and a loop penalty, with the settings of the arm. Logs to `folder`."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SteeredGRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(checkpoint),
            args=trl_config(scratch, arm, seed, settings),
            reward_funcs=[described, LoopPenalty()],
            train_dataset=Dataset.from_list(story_prompts(settings.steps * settings.prompts, seed)),
            processing_class=AutoTokenizer.from_pretrained(checkpoint),
            features=features,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    if folder is not None:
        write_log(folder, trainer)
    return trainer.model.eval()


def trl_config(folder: str, arm: Arm, seed: int, settings: Settings) -> SteeredGRPOConfig:
    """The settings of DAPO in TRL, which has no dynamic sampling."""
    return SteeredGRPOConfig(
        output_dir=folder,
        loss_type="dapo",
        epsilon=0.2,
        epsilon_high=0.28,
        beta=0.0,
        num_generations=settings.group,
        temperature=settings.temperatures[-1],
        max_completion_length=MAX_TOKENS,
        max_steps=settings.steps,
        per_device_train_batch_size=settings.prompts * settings.group,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=5,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        seed=seed,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        **ARMS[arm],
    )


def measure(
    arm: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: Settings,
    *,
    folder: Path | None = None,
) -> Outcome:
    """Sample answers to held-out prompts without steering. Answers and metrics are saved in `folder`."""
    rows = [row for row in story_prompts(settings.measured, HELD_OUT_SEED) for _ in range(settings.samples)]
    ids = encode_prompts(tokenizer, [row["prompt"] for row in rows], chat=False)
    outcome = Outcome(arm, {}, {}, {})
    for temperature in settings.temperatures:
        with sampler(model, tokenizer, SamplingSettings(temperature, 1.0, MAX_TOKENS)) as sample:
            answers = [answer for start in range(0, len(ids), 1000) for answer in sample(ids[start : start + 1000])]
        outcome.repetition[temperature] = repetition_rate(
            [answer.ids for answer in answers],
            ended=[answer.ended for answer in answers],
            clusters=[tuple(prompt) for prompt in ids],
        )
        outcome.task_reward[temperature] = fmean(described(ids, [answer.text for answer in answers]))
        outcome.unfinished[temperature] = fmean(not answer.ended for answer in answers)
        if folder is not None:
            write_looping_answers(folder / f"temperature {temperature}.jsonl", rows, answers, tokenizer)
    if folder is not None:
        rewards = {f"eval_task_reward, temperature {t}": reward for t, reward in outcome.task_reward.items()}
        write_numbers(folder, rewards)
    return outcome
