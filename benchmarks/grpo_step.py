"""What a steered rollout adds to a whole step of GRPO: rollouts, rewards, loss, gradient and update.

    python benchmarks/grpo_step.py [--quick]

Random Qwen3 models whose answers all have one length, so that every way makes equally many tokens. The ways take turns
in one process, on one thread.
"""

from __future__ import annotations

import argparse
from tempfile import TemporaryDirectory
from typing import Any

import _rows
import torch
from _models import GROUP, PROMPT, SIZES, features, group_shape, qwen3, tokenizer
from _timing import Timing, Way, interleaved, table
from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from sae_posttrain.training.rollouts import SteeredGRPOConfig, SteeredGRPOTrainer

COMPLETION = 64
ROUNDS = 15
WAYS: dict[str, dict[str, Any] | None] = {
    "GRPOTrainer": None,
    "GRPOTrainer, a second one": None,
    "steered_per_group=0": {"steered_per_group": 0},
    "one row steered": {},
    "one row extra_plain": {"steering_control": "extra_plain"},
    "one row steered, truncated_is": {"off_policy": "truncated_is"},
}


def rising(completions: list[str], **kwargs: Any) -> list[float]:
    """Rewards that differ, at no cost."""
    return [float(place) for place in range(len(completions))]


def step_of(size: str, folder: str, changes: dict[str, Any] | None) -> Way:
    """A trainer's whole step, after one that set it up."""
    width, blocks, vocabulary = SIZES[size]
    settings: dict[str, Any] = {
        "output_dir": folder,
        "per_device_train_batch_size": GROUP,
        "num_generations": GROUP,
        "max_completion_length": COMPLETION,
        "generation_kwargs": {"min_new_tokens": COMPLETION},
        "max_steps": 1,
        "loss_type": "dapo",
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    prompts = Dataset.from_list([{"prompt": " ".join(f"w{n + k + 1}" for k in range(PROMPT))} for n in range(64)])
    inputs = {"reward_funcs": rising, "train_dataset": prompts, "processing_class": tokenizer(vocabulary)}
    if changes is None:
        trainer = GRPOTrainer(qwen3(size), args=GRPOConfig(**settings), **inputs)
    else:
        args = SteeredGRPOConfig(**settings, steering_alpha=4.0, **changes)
        steering = features(width, blocks, [blocks // 2], 2, "repetition")
        trainer = SteeredGRPOTrainer(qwen3(size), args=args, features=steering, **inputs)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    batch = next(iter(trainer.get_train_dataloader()))

    def step() -> None:
        trainer.training_step(trainer.model_wrapped, batch, None)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the smallest model, for five rounds; writes no file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    timings: list[Timing] = []
    for size in ("0.4M",) if args.quick else ("0.4M", "4M"):
        with TemporaryDirectory() as folder:
            ways = {name: step_of(size, folder, changes) for name, changes in WAYS.items()}
            shape = group_shape(size, COMPLETION)
            timings += interleaved("GRPO step", ways, rounds=5 if args.quick else ROUNDS, size=shape)
    print(table(timings))
    if not args.quick:
        print(_rows.write("grpo_step", timings))


if __name__ == "__main__":
    main()
