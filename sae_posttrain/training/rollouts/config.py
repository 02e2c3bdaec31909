"""TRL's configurations of GRPO and RLOO, plus the settings of steered rollouts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from packaging.version import Version

try:
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig
    from trl import __version__ as trl_version
except ImportError as error:
    raise ImportError("Steered rollouts need TRL, which is not installed: pip install 'sae-posttrain[trl]'.") from error

from .settings import SteeringSettings

OLDEST = "1.12"  # older GRPO trainers need log-probabilities for every row, and their turns have other parameters
if Version(trl_version) < Version(OLDEST):
    raise ImportError(f"Steered rollouts need TRL {OLDEST} or newer, and {trl_version} is installed; upgrade it.")

# Only these losses of TRL divide by the tokens of the whole batch. One long row lowers the weight of all other rows.
DILUTED = ("dapo", "cispo", "vespo")


@dataclass
class SteeredGRPOConfig(SteeringSettings, GRPOConfig):
    """`trl.GRPOConfig` plus steered rollouts.

    Dynamic sampling, which DAPO uses, is not implemented; the published runs do not use it either. It replaces groups
    whose rewards are all equal by groups of other prompts. Here these prompts would have to come from the Trainer's
    dataloader, and a resumed run could not find its place there, since it counts steps. A group with equal rewards has
    no gradient. If loops are penalised, a group with a steered rollout seldom has equal rewards.

    Args:
        off_policy: how the loss weighs steered tokens. Default: `on_policy`, as published.
        max_steered_token_share: largest share of the loss's tokens that steered tokens may make up. Default: 1.0.

    The other settings are those of `SteeringSettings` and of `trl.GRPOConfig`.

    Raises:
        ValueError: settings that are out of range or contradict each other.

    Example:
        >>> config = SteeredGRPOConfig("out", bf16=False, num_generations=8, steering_alpha=12.0)
        >>> config.steered_per_group
        1

    Source: arXiv:2605.11887, section 8; `shaped` is LUFFY's policy shaping, arXiv:2504.14945.
    """

    off_policy: Literal["on_policy", "truncated_is", "shaped"] = field(
        default="on_policy",
        metadata={
            "help": "How the loss weights steered tokens, which were sampled from the steered policy. on_policy: like "
            "all other tokens, as published. truncated_is: by min(1, pi / pi_steered), which takes one more forward "
            "pass over the steered rows. shaped: by the gradient of pi / (pi + 0.1), as in LUFFY."
        },
    )
    max_steered_token_share: float = field(
        default=1.0,
        metadata={
            "help": "Steered tokens are down-weighted so that they make up at most this share of the loss's tokens. "
            "The KL term is not affected. Only for the losses that divide by all tokens: dapo, cispo, vespo."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.num_generations)
        self.check_temperature(self.temperature)
        self.warn_of_unseen_loops(self.max_completion_length)
        if not 0 < self.max_steered_token_share <= 1:
            raise ValueError(
                f"max_steered_token_share must be above 0 and at most 1, got {self.max_steered_token_share}."
            )
        if self.max_steered_token_share < 1 and self.loss_type not in DILUTED:
            raise ValueError(
                f"max_steered_token_share is for losses that divide by all tokens of the batch ({', '.join(DILUTED)}); "
                f"with loss_type={self.loss_type!r} a long row does not lower the weight of the others. Leave it at 1."
            )
        if self.off_policy != "on_policy" and self.importance_sampling_level != "token":
            raise ValueError(
                f"off_policy={self.off_policy!r} gives each token its own weight, which needs "
                f"importance_sampling_level='token', not {self.importance_sampling_level!r}. Change one of the two."
            )
        weighs_tokens = self.off_policy != "on_policy" or self.max_steered_token_share < 1
        # Newer versions of TRL use Liger for the layers only and compute the loss themselves.
        if weighs_tokens and self.use_liger_kernel and hasattr(GRPOTrainer, "compute_liger_loss"):
            raise ValueError(
                f"off_policy={self.off_policy!r} and max_steered_token_share={self.max_steered_token_share} need each "
                f"token's loss, which Liger computes in this version of TRL ({trl_version}). Set use_liger_kernel to "
                "false, or set off_policy='on_policy' and max_steered_token_share=1."
            )
        if not self.steered_in_baseline and self.multi_objective_aggregation != "sum_then_normalize":
            raise ValueError(
                "steered_in_baseline=False compares one summed reward per rollout, so it needs "
                f"multi_objective_aggregation='sum_then_normalize', not {self.multi_objective_aggregation!r}."
            )


@dataclass
class SteeredRLOOConfig(SteeringSettings, RLOOConfig):
    """`trl.RLOOConfig` plus steered rollouts.

    Args: those of `SteeringSettings` and of `trl.RLOOConfig`.

    Raises:
        ValueError: settings that are out of range or contradict each other.

    Example:
        >>> config = SteeredRLOOConfig("out", bf16=False, num_generations=4, steer_after_step=100)
        >>> config.steer_after_step
        100

    Source: arXiv:2605.11887, section 8.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.num_generations)
        self.check_temperature(self.temperature)
        self.warn_of_unseen_loops(self.max_completion_length)
        if not self.steered_in_baseline and self.normalize_advantages:
            raise ValueError("steered_in_baseline=False and normalize_advantages=True exclude each other; choose one.")
