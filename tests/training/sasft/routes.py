"""The two ways to train with SASFT, called alike."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trl import SFTConfig, SFTTrainer

from sae_posttrain import FeatureSet, SASFTCallback, SASFTConfig, SASFTTrainer

Route = Callable[..., SFTTrainer]


def with_callback(model: Any, features: FeatureSet, suppress: list[str], weight: float, **kwargs: Any) -> SFTTrainer:
    trainer = SFTTrainer(model, SFTConfig(**kwargs.pop("args")), **kwargs)
    trainer.add_callback(SASFTCallback(features, suppress=suppress, weight=weight).set_trainer(trainer))
    return trainer


def with_trainer(model: Any, features: FeatureSet, suppress: list[str], weight: float, **kwargs: Any) -> SFTTrainer:
    args = SASFTConfig(suppress=suppress, sasft_weight=weight, **kwargs.pop("args"))
    return SASFTTrainer(model, args, features=features, **kwargs)


def one_step_arguments(folder: Path, **changes: Any) -> dict[str, Any]:
    """SGD with rate 1 and no clipping: one step moves every weight by minus its gradient."""
    return {
        "output_dir": str(folder),
        "optim": "sgd",
        "learning_rate": 1.0,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "weight_decay": 0.0,
        "max_steps": 1,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
    } | changes
