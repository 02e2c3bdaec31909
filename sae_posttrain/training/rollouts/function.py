"""Steered rollouts for an unmodified `GRPOTrainer`, through TRL's experimental `rollout_func`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...feature_set import FeatureSet
from .plan import plan_for
from .settings import Control, SteeringSettings
from .source import Source, features_for, source_of
from .turn import prepare, steered_turn


def steered_rollout_func(
    features: FeatureSet | str | Path | None,
    *,
    alpha: float | None = None,
    steered_per_group: int = 1,
    steer_after_step: int = 0,
    steer_probability: float = 1.0,
    control: Control = "features",
    greedy_rollout_temperature: float = 0.0,
) -> Callable[[list[Any], Any], dict[str, Any]]:
    """`GRPOTrainer(…, rollout_func=steered_rollout_func(features))`; the settings are `SteeredGRPOConfig`'s.

    Reward functions are given `steered`, true or false for each completion, and the completions table shows it. The
    loss knows nothing of it: with overlong filtering, off-policy masks or other weights use `SteeredGRPOTrainer`.
    """
    settings = SteeringSettings(
        steering_alpha=alpha,
        steered_per_group=steered_per_group,
        steer_after_step=steer_after_step,
        steer_probability=steer_probability,
        steering_control=control,
        greedy_rollout_temperature=greedy_rollout_temperature,
    )
    return _SteeredRollouts(settings, features_for(settings, features))


def _turn_settings(trainer: Any) -> dict[str, int]:
    """What TRL's `_generate_single_turn` takes beside the prompts: newer ones the size of the groups."""
    if "num_generations" not in inspect.signature(trainer._generate_single_turn).parameters:
        return {}
    return {"num_generations": trainer.num_generations if trainer.model.training else trainer.num_generations_eval}


class _SteeredRollouts:
    """Callable and picklable; what depends on the trainer is found at its first call."""

    __name__ = "steered_rollouts"

    def __init__(self, settings: SteeringSettings, features: FeatureSet | None) -> None:
        self.settings = settings
        self.features = features
        self.source: Source | None = None

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        if self.source is None:
            self.source = self._prepared(trainer)
        plan = plan_for(trainer, self.settings, len(prompts))
        prompt_ids, images, fields = trainer._tokenize_prompts(prompts)
        settings = _turn_settings(trainer)

        def turn(prompt_ids: Any, images: Any, fields: Any) -> Any:
            return trainer._generate_single_turn(prompt_ids, images, fields, **settings)

        if plan:
            completion_ids, logprobs = steered_turn(
                trainer, turn, self.source, plan, prompt_ids=prompt_ids, images=images, fields=fields
            )
        else:
            completion_ids, logprobs = turn(prompt_ids, images, fields)
        steered = list(plan.here)
        trainer._log_completion_extra("steered", steered)
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": completion_ids,
            "logprobs": logprobs,
            "steered": steered,
        }

    def _prepared(self, trainer: Any) -> Source:
        self.settings.check(trainer.num_generations)
        self.settings.check_temperature(trainer.temperature)
        if self.settings.steered_per_group:
            for name in ("mask_truncated_completions", "off_policy_mask_threshold"):
                if getattr(trainer, name):
                    raise ValueError(
                        f"{name} would cancel the steered rollout, and a rollout_func cannot spare it: unset it, or "
                        "use SteeredGRPOTrainer."
                    )
        prepare(trainer)
        return source_of(self.settings, self.features, trainer.model, None, trainer.args.seed)
