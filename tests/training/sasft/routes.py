"""The two ways to train with SASFT, called alike, and plain SFT to compare with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from sae_posttrain import FeatureSet, SASFTCallback, SASFTConfig, SASFTTrainer

Route = Callable[..., SFTTrainer]


def plain(model: Any, features: FeatureSet, suppress: Sequence[str], weight: float, **kwargs: Any) -> SFTTrainer:
    return SFTTrainer(model, SFTConfig(**kwargs.pop("args")), **kwargs)


def with_callback(
    model: Any, features: FeatureSet, suppress: Sequence[str], weight: float, **kwargs: Any
) -> SFTTrainer:
    trainer = plain(model, features, suppress, weight, **kwargs)
    trainer.add_callback(SASFTCallback(features, suppress=suppress, weight=weight).set_trainer(trainer))
    return trainer


def with_trainer(model: Any, features: FeatureSet, suppress: Sequence[str], weight: float, **kwargs: Any) -> SFTTrainer:
    args = SASFTConfig(suppress=list(suppress), sasft_weight=weight, **kwargs.pop("args"))
    return SASFTTrainer(model, args, features=features, **kwargs)


@dataclass(frozen=True)
class World:
    """Everything a run needs; `run` makes a trainer that takes one step, in which SGD with rate 1 and no clipping
    moves every weight by minus its gradient."""

    make_model: Callable[..., nn.Module]
    tokenizer: PreTrainedTokenizerFast
    features: FeatureSet
    dataset: Dataset
    folder: Path

    def run(
        self,
        route: Route,
        *,
        suppress: Sequence[str] = ("zh",),
        weight: float = 1.0,
        model: nn.Module | None = None,
        features: FeatureSet | None = None,
        dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        **settings: Any,
    ) -> SFTTrainer:
        # What goes to the trainer itself, not into its arguments.
        direct = {name: settings.pop(name) for name in ("compute_loss_func",) if name in settings}
        return route(
            model if model is not None else self.make_model(),
            features or self.features,
            suppress,
            weight,
            args=self.arguments(**settings),
            train_dataset=dataset or self.dataset,
            eval_dataset=eval_dataset,
            processing_class=self.tokenizer,
            **direct,
        )

    def arguments(self, **settings: Any) -> dict[str, Any]:
        return {
            "output_dir": str(self.folder),
            "optim": "sgd",
            "learning_rate": 1.0,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0,
            "weight_decay": 0.0,
            "max_steps": 1,
            "per_device_train_batch_size": 8,
            "bf16": False,
            "use_cpu": True,
            "report_to": "none",
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
            "gradient_checkpointing": False,
        } | settings
