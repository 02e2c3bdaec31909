"""The two ways to train with SASFT, called alike, and plain SFT to compare with."""

from collections.abc import Sequence
from typing import Any

from trl import SFTConfig, SFTTrainer

from sae_posttrain import FeatureSet, SASFTCallback, SASFTConfig, SASFTTrainer


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
