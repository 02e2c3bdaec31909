"""The settings of steered rollouts, for any trainer. Each field has the help for YAML and the command line."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace
from typing import Literal

from ...metrics.loops import MIN_REPEATS, MIN_TOKENS, LoopSettings

logger = logging.getLogger(__name__)

Control = Literal["features", "random_direction", "extra_plain", "greedy_rollout"]
UNSTEERED: tuple[Control, ...] = ("extra_plain", "greedy_rollout")
"""Controls that need no features."""


@dataclass
class SteeringSettings:
    """Which rollouts of a group are steered, along which features, and what counts as a loop in the logged rates."""

    features: str | None = field(
        default=None, metadata={"help": "Feature set: a .safetensors file, or a hub repository that holds one."}
    )
    steering_alpha: float | None = field(
        default=None,
        metadata={
            "help": "Steering strength (alpha), in units of typical strength. Without it, the feature set's calibrated "
            "alpha is used."
        },
    )
    steered_per_group: int = field(
        default=1,
        metadata={
            "help": "Number of steered rollouts in each group of num_generations rollouts; 0 gives TRL's own trainer."
        },
    )
    steer_after_step: int = field(default=0, metadata={"help": "Optimizer steps before the first steered rollout."})
    steer_probability: float = field(default=1.0, metadata={"help": "Share of the groups that get a steered rollout."})
    steering_control: Control = field(
        default="features",
        metadata={
            "help": "How the steered rollout of a group is made. features: steered along the features. The other three "
            "are controls. random_direction: steered along random directions of the same norm. extra_plain: not "
            "steered. greedy_rollout: not steered, but sampled at greedy_rollout_temperature."
        },
    )
    greedy_rollout_temperature: float = field(
        default=0.0,
        metadata={
            "help": "Temperature of that rollout with steering_control=greedy_rollout; 0 is greedy decoding. It must "
            "be below temperature, at which the other rollouts are sampled."
        },
    )
    steered_in_baseline: bool = field(
        default=True,
        metadata={"help": "Whether the mean and std of a group's rewards include the steered rollout."},
    )
    steered_stop_after: int | None = field(
        default=None,
        metadata={
            "help": "Tokens of a loop after which the steered rollout ends, if the loop also has loop_min_repeats "
            "periods. At least loop_min_tokens. Default: it goes on to max_completion_length."
        },
    )
    steer_in_vllm: bool = field(
        default=False,
        metadata={
            "help": "With use_vllm: whether vLLM itself makes the steered rollouts, in the call that makes the others. "
            "In server mode start the server with SAE_POSTTRAIN_VLLM_FEATURES=FILE. Otherwise transformers generates "
            "them a second time."
        },
    )
    loop_min_repeats: int = field(default=MIN_REPEATS, metadata={"help": "Smallest number of whole periods of a loop."})
    loop_min_tokens: int = field(default=MIN_TOKENS, metadata={"help": "Smallest number of tokens of a loop."})

    @property
    def loop_settings(self) -> LoopSettings:
        """What counts as a loop in a completion's token ids."""
        return LoopSettings(self.loop_min_repeats, min_tokens=self.loop_min_tokens, fold_digits=False)

    @property
    def stop_at(self) -> LoopSettings | None:
        """The loop at which a chosen rollout ends, if any."""
        return (
            None if self.steered_stop_after is None else replace(self.loop_settings, min_tokens=self.steered_stop_after)
        )

    def warn_of_unseen_loops(self, max_completion_length: int | None) -> None:
        """Warn if completions are too short to hold a loop, so that loop rates and penalties are always 0."""
        if max_completion_length is not None and max_completion_length < self.loop_min_tokens:
            logger.warning(
                "max_completion_length=%d leaves no room for a loop of at least loop_min_tokens=%d tokens: "
                "loop rates and a LoopPenalty with this length will be 0. Raise the former or lower the latter.",
                *(max_completion_length, self.loop_min_tokens),
            )

    def check(self, num_generations: int) -> None:
        """Refuse settings that contradict each other or the group size.

        Args:
            num_generations: rollouts in a group.

        Raises:
            ValueError: the message names the setting and what it may be.
        """
        steered = self.steered_per_group
        if not 0 <= steered < num_generations:
            raise ValueError(
                f"steered_per_group={steered} with num_generations={num_generations}: expected at least 0, and fewer "
                "than num_generations, since steered rollouts are compared with at least one ordinary rollout."
            )
        if not self.steered_in_baseline and num_generations - steered < 2:
            raise ValueError(
                f"steered_in_baseline=False needs at least two ordinary rollouts in each group for the baseline, and "
                f"there is {num_generations - steered}. Raise num_generations."
            )
        if not 0 <= self.steer_probability <= 1:
            raise ValueError(f"steer_probability must be between 0 and 1, got {self.steer_probability}.")
        if self.steering_alpha is not None and not math.isfinite(self.steering_alpha):
            raise ValueError(f"steering_alpha must be a finite number, got {self.steering_alpha}.")
        if not (math.isfinite(self.greedy_rollout_temperature) and self.greedy_rollout_temperature >= 0):
            raise ValueError(
                f"greedy_rollout_temperature must be 0 (greedy) or more, got {self.greedy_rollout_temperature}."
            )
        if self.loop_min_repeats < 3 or self.loop_min_tokens < 1:  # checked here, before any rollout is made
            raise ValueError(
                f"loop_min_repeats={self.loop_min_repeats}, loop_min_tokens={self.loop_min_tokens}: expected at least "
                "3 and 1."
            )
        if self.steered_stop_after is not None and self.steered_stop_after < self.loop_min_tokens:
            raise ValueError(
                f"steered_stop_after={self.steered_stop_after} is below loop_min_tokens={self.loop_min_tokens}: a "
                "rollout that ends so early would not count as a loop. Raise the former or lower the latter."
            )

    def check_temperature(self, temperature: float) -> None:
        """Refuse a greedy_rollout_temperature that is not below `temperature`, the one of the other rollouts."""
        if self.steering_control != "greedy_rollout" or self.steered_per_group == 0:
            return
        if self.greedy_rollout_temperature >= temperature:
            raise ValueError(
                f"greedy_rollout_temperature={self.greedy_rollout_temperature} is not below the other rollouts' "
                f"temperature={temperature}. Lower it, or set steering_control=extra_plain, which samples the rollout "
                "like the others."
            )
