"""A tiny Qwen3 whose features make it repeat one word, prompts for it, and one step of GRPO on them.

Plain functions, so that the processes of a distributed test can build the same world.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from datasets import Dataset
from peft import LoraConfig
from tiny_models import BLOCKS, EXPERTS, WIDTH, qwen3, word_tokenizer
from tiny_models import TEXT as SHAPE
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from sae_posttrain import FeatureSet
from sae_posttrain.feature_set import LayerFeatures, Provenance
from sae_posttrain.training.rollouts import SteeredGRPOConfig, SteeredGRPOTrainer, SteeredRLOOConfig, SteeredRLOOTrainer
from sae_posttrain.training.rollouts.settings import SteeringSettings

TEXT = "again and bird cat dog eats fish goes here is jumps king lives moon night old plays queen runs sees"
WORDS = TEXT.split()
LOOPING = "again"
GROUP = 4
LENGTH = 8  # tokens of a completion
LOOP = " ".join([LOOPING] * LENGTH)
ALPHA = 30.0  # drowns everything else


def tokenizer() -> tf.PreTrainedTokenizerFast:
    return word_tokenizer([" ".join(WORDS)], "<pad>", "<eos>")


def model(**changes: Any) -> tf.Qwen3ForCausalLM:
    """Its head reads `LOOPING`, and nothing else, off the residual's first number."""
    return _with_head(qwen3(len(WORDS) + 2, eos_token_id=1, initializer_range=0.3, **changes))


def experts() -> tf.Qwen3MoeForCausalLM:
    torch.manual_seed(0)
    config = {**SHAPE, **EXPERTS, "vocab_size": len(WORDS) + 2, "eos_token_id": 1, "initializer_range": 0.3}
    return _with_head(tf.Qwen3MoeForCausalLM(tf.Qwen3MoeConfig(**config)))


def _with_head(made: Any) -> Any:
    with torch.no_grad():
        made.lm_head.weight *= 2.0
        made.lm_head.weight[:, 0] = 0.0
        made.lm_head.weight[_looping()] = 3.0 * torch.eye(WIDTH)[0]
    return made


def features() -> FeatureSet:
    """One feature of the last block: it writes the residual's first number."""
    vectors = {name: torch.eye(WIDTH)[:1].clone() for name in ("encoder", "direction")}
    numbers = {name: torch.ones(1) for name in ("bias", "score", "typical")}
    layer = LayerFeatures(BLOCKS - 1, (3,), ("loop",), **vectors, **numbers, baselines={}, activations={})
    return FeatureSet((layer,), Provenance("owner/tiny", WIDTH, BLOCKS, "owner/sae", {}, "", "random"))


def _looping() -> int:
    return int(tokenizer().convert_tokens_to_ids(LOOPING))


def dataset(prompts: int = 8) -> Dataset:
    """Prompts of two lengths, so that padding is in play."""
    return Dataset.from_list([{"prompt": " ".join(WORDS[n : n + 2 + n % 2])} for n in range(prompts)])


def lora() -> LoraConfig:
    return LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def varied(completions: list[str], **kwargs: Any) -> list[float]:
    """Distinct words please; `LOOPING` does not, and a loop of it least of all."""
    words = [text.split() for text in completions]
    return [float(len(set(row)) - row.count(LOOPING)) for row in words]


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


def rloo(folder: Path, **changes: Any) -> RLOOTrainer:
    """With an adapter, since its penalty on divergence needs the base model at hand."""
    return trainer(RLOOTrainer, RLOOConfig, folder, peft_config=lora(), beta=0.05, **changes)


def steered_rloo(folder: Path, **changes: Any) -> SteeredRLOOTrainer:
    return trainer(SteeredRLOOTrainer, SteeredRLOOConfig, folder, peft_config=lora(), beta=0.05, **changes)


def trainer(kind: Any, config: Any, folder: Path, **changes: Any) -> Any:
    """Changes go to the configuration where it has such a field, and to the trainer otherwise."""
    given = settings(folder, **changes)
    extra = {"reward_funcs": varied, "train_dataset": dataset(), "processing_class": tokenizer()}
    if issubclass(config, SteeringSettings):
        given = {"steering_alpha": ALPHA, "loop_min_tokens": LENGTH, **given}
        extra["features"] = given.pop("features", features())
    known = {field.name for field in fields(config)}
    extra |= {name: given.pop(name) for name in list(given) if name not in known}
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
        trained(self.trainer)
        return self

    def once(self) -> dict[str, Tensor]:
        """One batch generated and scored, and no step."""
        torch.manual_seed(self.trainer.args.seed)
        self.trainer.model.train()
        self.trainer.current_gradient_accumulation_steps = 1
        return self(next(iter(self.trainer.get_train_dataloader())))

    @property
    def texts(self) -> list[str]:
        ids = [row for output in self.generated for row in output["completion_ids"]]
        return self.trainer.processing_class.batch_decode(ids, skip_special_tokens=True)

    def gradient(self, rows: Iterable[int]) -> Tensor:
        """Of the loss of some rows of the last batch, at the present weights; all parameters in one row."""
        chosen = list(rows)
        inputs = {name: value[chosen] if value.ndim else value for name, value in self.generated[-1].items()}
        self.trainer.model.zero_grad()
        self.trainer.compute_loss(self.trainer.model, inputs).backward()
        return torch.cat([p.grad.flatten() for p in self.trainer.model.parameters() if p.grad is not None])


def trained(trainer: Any) -> Any:
    torch.manual_seed(trainer.args.seed)  # whatever was made or trained in between
    trainer.train()
    return trainer


def weights(trainer: Any) -> list[Tensor]:
    return [value.detach().clone() for value in trainer.model.state_dict().values()]


def logged(trainer: Any, name: str) -> list[float]:
    return [log[name] for log in trainer.state.log_history if name in log]
