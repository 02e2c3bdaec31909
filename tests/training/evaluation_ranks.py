"""What each of two processes runs: `python -m training.evaluation_ranks CONFIG FILE`; one line per case and process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from sae_posttrain import RateEvaluationCallback, SASFTCallback
from sae_posttrain.sampling import SamplingSettings

from .sasft.world import World, build_world

PROMPTS = [
    {"prompt": prompt, "language": "en"}
    for prompt in ("the cat sees", "a house", "and sings today", "a small cat", "the")
]


class Failing(RateEvaluationCallback):
    """Fails to generate on the second process, once."""

    def _answer(self, trainer: Any) -> Any:
        if dist.get_rank() == 1 and trainer.state.global_step == 1:
            raise RuntimeError("no room on this one")
        return super()._answer(trainer)


def evaluation(kind: type[RateEvaluationCallback] = RateEvaluationCallback) -> list[TrainerCallback]:
    return [kind(PROMPTS, 1, sampling=SamplingSettings(top_p=1.0, max_new_tokens=8), samples=2, batch_size=3)]


def dense(world: World) -> nn.Module:
    return world.make_model(attention_dropout=0.2)


def adapted(world: World) -> nn.Module:
    model = world.make_model(attention_dropout=0.2)
    torch.manual_seed(5)
    return get_peft_model(
        model, LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.3, init_lora_weights=False)
    )


Case = tuple[Callable[[World], nn.Module], Callable[[], list[TrainerCallback]]]
LORA: Mapping[str, Case] = {"LoRA, plain": (adapted, list), "LoRA, watched": (adapted, evaluation)}
CASES: Mapping[str, Mapping[str, Case]] = {
    "ddp": {**LORA, "LoRA, failing": (adapted, lambda: evaluation(Failing))},
    "fsdp2": {**LORA, "dense, plain": (dense, list), "dense, watched": (dense, evaluation)},
    "zero2": LORA,
}


def report(config: str, name: str, folder: Path) -> dict[str, Any]:
    world = build_world(folder)
    make, callbacks = CASES[config][name]
    settings = {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 0.05, "use_cpu": config == "ddp"}
    args = SFTConfig(**world.arguments(**settings, gradient_checkpointing=True))
    trainer = SFTTrainer(make(world), args, train_dataset=world.dataset, processing_class=world.tokenizer)
    trainer.add_callback(SASFTCallback(world.features, suppress="zh", weight=1.0).set_trainer(trainer))
    for callback in callbacks():
        trainer.add_callback(callback)
    torch.manual_seed(dist.get_rank())
    trainer.train()
    whole = (getattr(parameter, "full_tensor", lambda p=parameter: p)() for parameter in trainer.model.parameters())
    return {
        "case": name,
        "rank": dist.get_rank(),
        "wrapped": type(trainer.model_wrapped).__name__,
        "weights": [parameter.detach().double().sum().item() for parameter in whole],
        "random": torch.rand(1).item(),
        "losses": [log["loss"] for log in trainer.state.log_history if "loss" in log],
        "sasft": [log["sasft_loss"] for log in trainer.state.log_history if "sasft_loss" in log],
        "rates": [log for log in trainer.state.log_history if "eval_repetition" in log],
    }


def main(config: str, output: Path) -> None:
    with TemporaryDirectory() as folder:
        for name in CASES[config]:
            found = report(config, name, Path(folder))
            with output.with_suffix(f".{dist.get_rank()}").open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
    # A process that leaves while its peer still talks to it takes the peer down.
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
