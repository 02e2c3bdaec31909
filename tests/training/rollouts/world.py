"""A tiny Qwen3 whose features make it repeat one word, prompts for it, and one step of GRPO on them.

Plain functions, so that the processes of a distributed test can build the same world.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from datasets import Dataset
from tiny_models import BLOCKS, WIDTH, qwen3, word_tokenizer
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from sae_posttrain import FeatureSet
from sae_posttrain.feature_set import LayerFeatures, Provenance
from sae_posttrain.training.rollouts import SteeredGRPOConfig, SteeredGRPOTrainer
from sae_posttrain.training.rollouts.settings import SteeringSettings

TEXT = "again and bird cat dog eats fish goes here is jumps king lives moon night old plays queen runs sees"
WORDS = TEXT.split()
LOOPING = "again"
GROUP = 4
LENGTH = 8  # tokens of a completion
ALPHA = 30.0  # drowns everything else


def tokenizer() -> tf.PreTrainedTokenizerFast:
    return word_tokenizer([" ".join(WORDS)], "<pad>", "<eos>")


def model(seed: int = 0, **changes: Any) -> tf.Qwen3ForCausalLM:
    """Its head reads `LOOPING`, and nothing else, off the residual's first number."""
    made = qwen3(len(WORDS) + 2, seed, **{"eos_token_id": 1, "initializer_range": 0.3, **changes})
    with torch.no_grad():
        made.lm_head.weight *= 2.0
        made.lm_head.weight[:, 0] = 0.0
        made.lm_head.weight[_looping()] = 3.0 * torch.eye(WIDTH)[0]
    return made


def features() -> FeatureSet:
    """One feature of the last block: it writes the residual's first number."""
    direction, one = torch.eye(WIDTH)[:1], torch.ones(1)
    layer = LayerFeatures(BLOCKS - 1, (3,), ("loop",), direction, one, direction, one, one, {}, {})
    return FeatureSet((layer,), Provenance("owner/tiny", WIDTH, BLOCKS, "owner/sae", {}, "", "random"))


def _looping() -> int:
    return int(tokenizer().convert_tokens_to_ids(LOOPING))


def dataset(prompts: int = 8) -> Dataset:
    """Prompts of two lengths, so that padding is in play."""
    return Dataset.from_list([{"prompt": " ".join(WORDS[n : n + 2 + n % 2])} for n in range(prompts)])


def varied(completions: list[str], **kwargs: Any) -> list[float]:
    """Distinct words: a loop has few, and a group is never equal for long."""
    return [float(len(set(text.split()))) for text in completions]


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """For GRPOConfig: one group of four in a step, without anything random but sampling."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": GROUP,
        "num_generations": GROUP,
        "max_completion_length": LENGTH,
        "max_steps": 1,
        "learning_rate": 1e-2,
        "beta": 0.0,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        **changes,
    }


def plain(folder: Path, **changes: Any) -> GRPOTrainer:
    return trainer(GRPOTrainer, GRPOConfig, folder, **changes)


def steered(folder: Path, **changes: Any) -> SteeredGRPOTrainer:
    return trainer(SteeredGRPOTrainer, SteeredGRPOConfig, folder, **changes)


def trainer(kind: Any, config: Any, folder: Path, **changes: Any) -> Any:
    """Changes go to the configuration where it has such a field, and to the trainer otherwise."""
    given = settings(folder, **changes)
    if issubclass(config, SteeringSettings):
        given = {"steering_alpha": ALPHA, "loop_min_tokens": LENGTH, **given}
    known = {field.name for field in fields(config)}
    extra = {name: given.pop(name) for name in list(given) if name not in known}
    extra = {"reward_funcs": varied, "train_dataset": dataset(), "processing_class": tokenizer(), **extra}
    if issubclass(config, SteeringSettings):
        extra = {"features": features(), **extra}
    return kind(extra.pop("model", None) or model(), args=config(**given), **extra)


class Watched:
    """Keeps what a trainer generated and scored, batch by batch, as it came."""

    def __init__(self, trainer: Any) -> None:
        self.generated: list[dict[str, Tensor]] = []
        self.trainer = trainer
        self._inner = trainer._generate_and_score_completions
        trainer._generate_and_score_completions = self

    def __call__(self, inputs: Any) -> Any:
        output = self._inner(inputs)
        self.generated.append({name: value.clone() for name, value in output.items()})
        return output

    def trained(self) -> Watched:
        self.trainer.train()
        return self

    @property
    def texts(self) -> list[str]:
        ids = [row for output in self.generated for row in output["completion_ids"]]
        return self.trainer.processing_class.batch_decode(ids, skip_special_tokens=True)


def trained(trainer: Any) -> Any:
    trainer.train()
    return trainer


def weights(trainer: Any) -> list[Tensor]:
    return [value.detach().clone() for value in trainer.model.state_dict().values()]


def losses(trainer: Any) -> list[float]:
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]
