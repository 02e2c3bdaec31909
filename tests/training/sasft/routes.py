"""The two ways to train with SASFT, called alike, and plain SFT to compare with."""

from collections.abc import Sequence
from typing import Any

from trl import SFTConfig, SFTTrainer

from sae_posttrain import FeatureSet, SASFTCallback, SASFTConfig, SASFTTrainer
from sae_posttrain.training.sasft.loss import Penalty


def plain(model: Any, features: FeatureSet, suppress: Sequence[str], weight: Any, **kwargs: Any) -> SFTTrainer:
    return SFTTrainer(model, SFTConfig(**kwargs.pop("args")), **kwargs)


def with_callback(model: Any, features: FeatureSet, suppress: Sequence[str], weight: Any, **kwargs: Any) -> SFTTrainer:
    names = ("refresh_baselines", "loss_budget", "token_weight", "token_share", "token_counts")
    ours = {name: kwargs["args"].pop(name) for name in names if name in kwargs["args"]}
    trainer = plain(model, features, suppress, weight, **kwargs)
    callback = SASFTCallback(features, suppress=suppress, weight=weight, **ours)
    trainer.add_callback(callback.set_trainer(trainer))
    return trainer


def with_trainer(model: Any, features: FeatureSet, suppress: Sequence[str], weight: Any, **kwargs: Any) -> SFTTrainer:
    settings = kwargs.pop("args")
    refresh = settings.pop("refresh_baselines", 0)
    if (counts := settings.pop("token_counts", None)) is not None:
        settings["token_counts"] = str(counts.save(f"{settings['output_dir']}/counts.safetensors"))
    args = SASFTConfig(suppress=list(suppress), sasft_weight=weight, sasft_refresh_baselines=refresh, **settings)
    return SASFTTrainer(model, args, features=features, **kwargs)


def penalties(trainer: Any) -> list[Penalty]:
    """What the feature term compares with now, by layer."""
    return list(trainer.sasft.terms["features"].penalties.values())
