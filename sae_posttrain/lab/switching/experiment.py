"""Compare the switch rate and cost of plain SFT, SASFT, its control and its rival, from one checkpoint.

The control is SASFT with random features. The rival is unlikelihood of the suppressed language's tokens, which needs no
SAE.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import SFTConfig, SFTTrainer

from ...discovery import discover_language_features
from ...feature_set import FeatureSet
from ...metrics.code_switching import code_switching_rate
from ...metrics.messages import clusters_of
from ...metrics.share import Share
from ...sampling import SamplingSettings, sample_responses
from ...training.sasft import SASFTCallback
from ..shared.jobs import Jobs, at_once
from ..shared.lexicon import LANGUAGES
from ..shared.record import arm_folder, write_log, write_numbers
from .documents import monolingual_texts
from .questions import NOISE, questions
from .record import write_switching_answers

Arm = Literal["SFT", "SASFT", "random features", "unlikelihood"]
ARMS: tuple[Arm, ...] = ("SFT", "SASFT", "random features", "unlikelihood")
WITH_FEATURES: tuple[Arm, ...] = ("SASFT", "random features")
HELD_OUT_SEED = 90_000


@dataclass(frozen=True)
class Settings:
    """The settings that all arms share."""

    steps: int = 250
    batch: int = 32
    learning_rate: float = 3e-4
    noise: float = NOISE
    weight: float = 0.5
    token_weight: float = 30.0
    scale: Literal["raw", "typical"] = "raw"
    baseline: Literal["mean", "zero"] = "mean"
    top: int = 32
    layers: tuple[int, ...] = (2,)
    texts: int = 100  # per language, for discovery
    prompts: int = 1000
    samples: int = 4
    held_out: int = 4000  # number of answers for the held-out loss
    top_p: tuple[float, ...] = (0.8, 1.0)


DEMO = Settings(prompts=500, held_out=2000)
BENCHMARK = Settings(prompts=1500)


@dataclass(frozen=True)
class Outcome:
    """The measurements of one arm: switches into the suppressed language by top_p, and nats per answer token."""

    arm: Arm
    switching: dict[float, Share]
    held_out_loss: float


def run_arms(
    checkpoint: Path,
    saes: Path,
    suppress: str,
    seed: int,
    settings: Settings,
    *,
    arms: Sequence[Arm] = ARMS,
    output: Path | None = None,
    jobs: Jobs = at_once,
    say: Callable[[str], None] = lambda line: None,
) -> list[Outcome]:
    """Train and measure every arm from one checkpoint on the same data, and save features and models in `output`."""
    started = [jobs(run_arm, arm, checkpoint, saes, suppress, seed, settings, output=output) for arm in arms]
    outcomes = []
    for job in started:
        outcomes.append(job.result())
        rates = ", ".join(f"{rate.rate:.2%} at top_p {top_p}" for top_p, rate in outcomes[-1].switching.items())
        say(f"  {outcomes[-1].arm}: {rates}")
    return outcomes


def run_arm(
    arm: Arm,
    checkpoint: Path,
    saes: Path,
    suppress: str,
    seed: int,
    settings: Settings,
    *,
    output: Path | None = None,
) -> Outcome:
    """Train and measure one arm, and save its features, model, log and answers in `output`."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    features = None
    if arm in WITH_FEATURES:
        features = find_features(checkpoint, saes, suppress, seed, settings, arm)
    folder = None if output is None else arm_folder(output, arm)
    callback = callback_of(arm, features, suppress, settings)
    model = fine_tune(checkpoint, seed, settings, callback, folder=folder)
    outcome = measure(arm, model, tokenizer, suppress, settings, folder=folder)
    if folder is not None:
        if features is not None:
            features.save(folder.with_suffix(".safetensors"))
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return outcome


def find_features(
    checkpoint: Path, saes: Path, suppress: str, seed: int, settings: Settings, arm: Arm = "SASFT"
) -> FeatureSet:
    """The suppressed language's features. For the control, the same number of features drawn at random."""
    return discover_language_features(
        AutoModelForCausalLM.from_pretrained(checkpoint),
        AutoTokenizer.from_pretrained(checkpoint),
        saes,
        monolingual_texts(settings.texts, seed=50_000 + seed),
        layers=settings.layers,
        top=settings.top,
        targets=[suppress],
        select="random" if arm == "random features" else "monolinguality",
        seed=seed,
        batch_size=32,
        progress=False,
    )


def callback_of(arm: Arm, features: FeatureSet | None, suppress: str, settings: Settings) -> SASFTCallback | None:
    """The callback of an arm; None for plain SFT."""
    if arm == "unlikelihood":
        return SASFTCallback(suppress=suppress, token_weight=settings.token_weight)
    if features is None:
        return None
    return SASFTCallback(features, suppress, weight=settings.weight, baseline=settings.baseline, scale=settings.scale)


def fine_tune(
    checkpoint: Path,
    seed: int,
    settings: Settings,
    callback: SASFTCallback | None = None,
    *,
    folder: Path | None = None,
) -> PreTrainedModel:
    """Fine-tune the checkpoint with TRL. A callback adds an auxiliary loss.

    The trainer's log is saved in `folder`.
    """
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    rows = questions(settings.steps * settings.batch, seed, noise=settings.noise)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model,
            _trl_config(scratch, seed, settings),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(checkpoint),
        )
        trainer.remove_callback(PrinterCallback)
        if callback is not None:
            trainer.add_callback(callback.set_trainer(trainer))
        trainer.train()
        if folder is not None:
            write_log(folder, trainer)
    return model.eval()


def _trl_config(folder: str, seed: int, settings: Settings) -> SFTConfig:
    return SFTConfig(
        output_dir=folder,
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=20,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        seed=seed,
        report_to="none",
        save_strategy="no",
        logging_steps=max(1, settings.steps // 25),
        disable_tqdm=True,
    )


def measure(
    arm: Arm,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suppress: str,
    settings: Settings,
    *,
    folder: Path | None = None,
) -> Outcome:
    """Measure the switch rate of sampled answers in the other languages, and the loss of held-out answers in all.

    The answers and the loss are saved in `folder`.
    """
    others = [language for language in LANGUAGES if language != suppress]
    asked = questions(settings.prompts, HELD_OUT_SEED, languages=others)
    switching = {}
    for top_p in settings.top_p:
        responses = sample_responses(
            model,
            tokenizer,
            [row["prompt"] for row in asked],
            SamplingSettings(top_p=top_p, max_new_tokens=48),
            samples=settings.samples,
            batch_size=1000,
            progress=False,
        )
        if folder is not None:
            write_switching_answers(folder / f"top_p {top_p}.jsonl", asked, responses)
        report = code_switching_rate(
            [one.text for of_prompt in responses for one in of_prompt],
            [row["language"] for row in asked for _ in range(settings.samples)],
            to=suppress,
            clusters=[cluster for cluster in clusters_of(asked) for _ in range(settings.samples)],
            count_latin=True,
        )
        switching[top_p] = report.overall
    held_out = questions(settings.held_out, HELD_OUT_SEED + 1, noise=settings.noise)
    loss = answer_loss(model, tokenizer, held_out)
    if folder is not None:
        write_numbers(folder, {"eval_loss": loss})
    return Outcome(arm, switching, loss)


@torch.no_grad()
def answer_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]], batch_size: int = 250
) -> float:
    """The loss in nats per token of the rows' answers, including their end markers."""
    total, counted = 0.0, 0
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        prompts = [_chat(tokenizer, row["prompt"], add_generation_prompt=True) for row in batch]
        whole = [_chat(tokenizer, row["prompt"] + row["completion"]) for row in batch]
        inputs = tokenizer(whole, return_tensors="pt", padding=True, padding_side="right")
        labels_BS = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        for row_S, prompt in zip(labels_BS, prompts, strict=True):
            row_S[: len(tokenizer(prompt)["input_ids"])] = -100
        tokens = int((labels_BS[:, 1:] != -100).sum())
        total += float(model(**inputs, labels=labels_BS).loss) * tokens
        counted += tokens
    return total / counted


def _chat(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], **options: Any) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
