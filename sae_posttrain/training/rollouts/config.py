"""TRL's configurations for groups, plus steered rollouts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from packaging.version import Version

try:
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig
    from trl import __version__ as trl_version
except ImportError as error:
    raise ImportError("Steered rollouts run in TRL's trainers: pip install 'sae-posttrain[trl]'.") from error

from .settings import SteeringSettings

OLDEST = "1.12"  # before, GRPO took no missing log-probabilities for a row, and turns had other parameters
if Version(trl_version) < Version(OLDEST):
    raise ImportError(f"Steered rollouts need TRL {OLDEST} or newer, and {trl_version} is installed; upgrade it.")

# The only losses of TRL that divide by the tokens of the whole batch, so that one long row takes weight from the rest.
DILUTED = ("dapo", "cispo", "vespo")


@dataclass
class SteeredGRPOConfig(SteeringSettings, GRPOConfig):
    """`trl.GRPOConfig` plus steered rollouts.

    There is no dynamic sampling, as in the published runs. DAPO draws other prompts for groups whose rewards are all
    equal; here they would have to come out of the Trainer's dataloader, whose place a resumed run finds by counting
    steps, for a number of rounds that all processes agree on. Such a group has no gradient, and where loops are
    punished a steered one is seldom such a group.
    """

    off_policy: Literal["on_policy", "truncated_is", "shaped"] = field(
        default="on_policy",
        metadata={
            "help": "How the loss weighs steered tokens, which another policy sampled. on_policy: like all others, as "
            "published. truncated_is: by min(1, pi / pi_steered), which costs one more forward of the steered rows. "
            "shaped: by the gradient of pi / (pi + 0.1), as in LUFFY."
        },
    )
    max_steered_token_share: float = field(
        default=1.0,
        metadata={
            "help": "Largest share of the loss's tokens that steered tokens may make up; they are down-weighted to it. "
            "The KL term is not affected. For the losses that divide by all tokens: dapo, cispo, vespo."
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
                f"with loss_type={self.loss_type!r} a long row takes no weight from the others. Leave it at 1."
            )
        if self.off_policy != "on_policy" and self.importance_sampling_level != "token":
            raise ValueError(
                f"off_policy={self.off_policy!r} weighs tokens; set importance_sampling_level='token', not "
                f"{self.importance_sampling_level!r}."
            )
        weighs_tokens = self.off_policy != "on_policy" or self.max_steered_token_share < 1
        # Newer TRLs take Liger's layers only, and keep the loss their own.
        if weighs_tokens and self.use_liger_kernel and hasattr(GRPOTrainer, "compute_liger_loss"):
            raise ValueError(
                f"off_policy={self.off_policy!r} and max_steered_token_share={self.max_steered_token_share} need each "
                f"token's loss, and this TRL ({trl_version}) leaves it to Liger. Set use_liger_kernel to false, or "
                "off_policy='on_policy' and max_steered_token_share=1."
            )
        if not self.steered_in_baseline and self.multi_objective_aggregation != "sum_then_normalize":
            raise ValueError(
                "steered_in_baseline=False needs one reward to compare: set "
                f"multi_objective_aggregation='sum_then_normalize', not {self.multi_objective_aggregation!r}."
            )


@dataclass
class SteeredRLOOConfig(SteeringSettings, RLOOConfig):
    """`trl.RLOOConfig` plus steered rollouts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.num_generations)
        self.check_temperature(self.temperature)
        self.warn_of_unseen_loops(self.max_completion_length)
        if not self.steered_in_baseline and self.normalize_advantages:
            raise ValueError("steered_in_baseline=False cannot be had with normalize_advantages=True; choose one.")
