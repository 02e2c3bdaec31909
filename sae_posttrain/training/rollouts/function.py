"""Steered rollouts for an unmodified `GRPOTrainer`, through TRL's experimental `rollout_func`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...feature_set import FeatureSet
from .in_vllm import InVLLM
from .plan import plan_for
from .settings import Control, SteeringSettings
from .source import Source, features_for, source_of, steering_set
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
    stop_after: int | None = None,
    in_vllm: bool = False,
) -> Callable[[list[Any], Any], dict[str, Any]]:
    """A `rollout_func` for `trl.GRPOTrainer` that steers one rollout of each group.

    Reward functions are given `steered` and `stopped`, true or false for each completion. The completions table shows
    `steered`. The loss treats steered rows like all others. With overlong filtering, off-policy masks or other weights,
    use `SteeredGRPOTrainer` instead.

    Args:
        features: a feature set or its path; None for a `control` that needs no features.
        alpha: steering strength, in units of the features' typical activation. Default: the calibrated one.
        steered_per_group: steered rollouts in each group of `num_generations`. Default: 1.
        steer_after_step: optimizer steps before the first steered rollout. Default: 0.
        steer_probability: share of the groups that get a steered rollout, 0 to 1. Default: 1.0.
        control: `features`, or a control: `random_direction`, `extra_plain` or `greedy_rollout`.
        greedy_rollout_temperature: temperature of the rollout with `control="greedy_rollout"`; 0 is greedy.

        stop_after: tokens of a loop after which the rollout ends. Default: it goes on to the token limit.
        in_vllm: whether vLLM steers itself, in its one generate call. Start the program, or the server, with
            SAE_POSTTRAIN_VLLM_FEATURES=FILE in its environment, the file of these features. Default: transformers
            generates the steered rollouts a second time.

    Returns:
        A callable that can be pickled. It takes the prompts and the trainer, as TRL calls it.

    Raises:
        ValueError: there are no features, there is no strength, or a setting is out of range. At the first call: the
            features belong to another model, or a setting of the trainer would cancel the steered rollout.

    Example:
        >>> trainer = GRPOTrainer(model, rewards, rollout_func=steered_rollout_func("loops.safetensors"))

    Source: arXiv:2605.11887, section 8.
    """
    settings = SteeringSettings(
        steering_alpha=alpha,
        steered_per_group=steered_per_group,
        steer_after_step=steer_after_step,
        steer_probability=steer_probability,
        steering_control=control,
        greedy_rollout_temperature=greedy_rollout_temperature,
        steered_stop_after=stop_after,
        steer_in_vllm=in_vllm,
    )
    return _SteeredRollouts(settings, features_for(settings, features))


def _turn_settings(trainer: Any) -> dict[str, int]:
    """Further arguments of TRL's `_generate_single_turn`: newer versions also take the size of the groups."""
    if "num_generations" not in inspect.signature(trainer._generate_single_turn).parameters:
        return {}
    return {"num_generations": trainer.num_generations if trainer.model.training else trainer.num_generations_eval}


class _SteeredRollouts:
    """The callable that `steered_rollout_func` returns. It can be pickled, and reads the trainer at its first call."""

    __name__ = "steered_rollouts"

    def __init__(self, settings: SteeringSettings, features: FeatureSet | None) -> None:
        self.settings = settings
        self.features = features
        self.source: Source | None = None
        self.in_vllm: InVLLM | None = None

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        if self.source is None:
            self.source = self._prepared(trainer)
        plan = plan_for(trainer, self.settings, len(prompts))
        prompt_ids, images, fields = trainer._tokenize_prompts(prompts)
        settings = _turn_settings(trainer)

        def turn(prompt_ids: Any, images: Any, fields: Any) -> Any:
            return trainer._generate_single_turn(prompt_ids, images, fields, **settings)

        ended: frozenset[int] = frozenset()
        if plan:
            first = steered_turn(trainer, turn, self.source, plan, prompt_ids=prompt_ids, images=images, fields=fields)
            (completion_ids, logprobs), ended = first.made, first.ended
        else:
            completion_ids, logprobs = turn(prompt_ids, images, fields)
        steered = list(plan.here)
        trainer._log_completion_extra("steered", steered)
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": completion_ids,
            "logprobs": logprobs,
            "steered": steered,
            "stopped": [row in ended for row in range(len(steered))],
        }

    def _prepared(self, trainer: Any) -> Source:
        self.settings.check(trainer.num_generations)
        self.settings.check_temperature(trainer.temperature)
        if self.settings.steered_per_group:
            for name in ("mask_truncated_completions", "off_policy_mask_threshold"):
                if getattr(trainer, name):
                    raise ValueError(
                        f"{name} would cancel the steered rollouts, and a rollout_func cannot exempt them. Unset it, "
                        "or use SteeredGRPOTrainer."
                    )
        prepare(trainer)
        chosen = steering_set(self.settings, self.features, trainer.args.seed)
        source = source_of(self.settings, self.features, chosen, trainer.model, None)
        self.in_vllm = InVLLM(source, chosen) if self.settings.steer_in_vllm else None
        return source
