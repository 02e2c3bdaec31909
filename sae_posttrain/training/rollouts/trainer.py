"""TRL's GRPO and RLOO trainers with one rollout of each group steered."""

# N rows of all processes, B rows of one batch, P prompt, T completion tokens

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:
    from trl import GRPOTrainer, RLOOTrainer
except ImportError as error:
    raise ImportError("Steered rollouts need TRL, which is not installed: pip install 'sae-posttrain[trl]'.") from error

from .batch import SteeredBatch
from .config import SteeredGRPOConfig, SteeredRLOOConfig
from .mixin import SteeredRolloutMixin
from .row_temperature import logps_at
from .weighing import (
    advantages_outside_baseline,
    leave_one_out_outside_baseline,
    shaped_weight,
    steered_positions,
    truncated_weight,
)


class SteeredGRPOTrainer(SteeredRolloutMixin, GRPOTrainer):
    """`trl.GRPOTrainer` with one rollout of each group steered. Source: arXiv:2605.11887, section 8.

    Args:
        args: a `SteeredGRPOConfig` with the features and the strength of steering. Without it, all settings have their
            defaults, and `features` must hold a calibrated `alpha`; the output folder is `<model>-SteeredGRPO`.
        features: a feature set or its path, instead of `args.features`.
        other arguments: as in `GRPOTrainer`. Reward functions are given `steered` and `stopped`, both
            true or false for each completion.

    Raises: ValueError if features or strength are missing, the features do not fit, or there is a `rollout_func`.

    Example:
        >>> args = SteeredGRPOConfig("out", features="loops.safetensors", num_generations=8)
        >>> SteeredGRPOTrainer(model, reward_funcs=[LoopPenalty()], args=args, train_dataset=prompts).train()
    """

    _tag_names = ["trl", "grpo", "steered-rollouts", "sae-posttrain"]  # noqa: RUF012
    _name = "GRPO with steered rollouts"
    _config_class, _plain_class = SteeredGRPOConfig, GRPOTrainer
    _loss_inputs: dict[str, Any] | None = None

    def _finish(self, output: Any, batch: SteeredBatch) -> None:
        super()._finish(output, batch)
        steered_B = output["steered_tokens"] > 0
        if self.off_policy_mask_threshold is not None:
            sampled_BT = output.get("sampling_per_token_logps", output.get("old_per_token_logps"))
            if sampled_BT is not None:  # a row with unknown log-probabilities is not masked
                output["sampling_per_token_logps"] = sampled_BT.masked_fill(steered_B[:, None], torch.nan)
        if self.args.off_policy == "truncated_is":
            output["steered_per_token_logps"] = self._steered_logps(output, batch)

    def _outside_baseline(self, output: Any, batch: SteeredBatch) -> Tensor:
        rewards_N, steered_N = batch.rewards(self.reward_weights), batch.steered_everywhere(self.accelerator.device)
        return advantages_outside_baseline(rewards_N, steered_N, self.num_generations, self.scale_rewards)

    @torch.no_grad()
    def _steered_logps(self, output: Any, batch: SteeredBatch) -> Tensor:
        """Log-probabilities `(B, T)` of the steered rows' completions under the policy that sampled them."""
        if "pixel_values" in output:
            raise ValueError("off_policy='truncated_is' cannot score images; choose on_policy or shaped.")
        ids_BS = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        mask_BS = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
        steered_BT = steered_positions(output["completion_ids"], output["steered_tokens"])
        logps_BT = torch.zeros(steered_BT.shape, device=ids_BS.device)
        # The logits at a position give the probabilities of the next token.
        positions_BS = torch.zeros_like(ids_BS, dtype=torch.bool)
        positions_BS[:, output["prompt_ids"].shape[1] - 1 : -1] = steered_BT
        rows = batch.plan.rows(as_many_everywhere=self._dist.is_fsdp or self._dist.is_zero3)
        size = self.args.per_device_train_batch_size
        for chunk in (rows[start : start + size] for start in range(0, len(rows), size)):
            scored = (ids_BS[chunk], mask_BS[chunk], steered_BT.shape[1])
            if self.source.temperature is not None:
                logps_BT[chunk] = logps_at(self.model, *scored, self.source.temperature)
                continue
            with self.source.scoring(self.model, positions_BS[chunk]):
                found = self._get_per_token_logps_and_entropies(self.model, *scored)
            logps_BT[chunk] = found[0].float()
        return logps_BT

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        if self.args.off_policy == "on_policy" or "steered_tokens" not in inputs:
            return super()._compute_loss(model, inputs)
        self._loss_inputs = dict(inputs)
        try:
            return super()._compute_loss(model, self._loss_inputs)
        finally:
            self._loss_inputs = None

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self._loss_inputs is not None:
            self._weigh_tokens(self._loss_inputs, found[0].detach())
        return found

    def _weigh_tokens(self, inputs: dict[str, Any], logps_BT: Tensor) -> None:
        """Weigh steered tokens through `advantages`, which TRL reads next and which may have one value per token."""
        steered_BT = steered_positions(inputs["completion_ids"], inputs["steered_tokens"])
        old_BT = inputs.get("old_per_token_logps")
        if self.args.off_policy == "truncated_is":
            weight_BT = truncated_weight(logps_BT if old_BT is None else old_BT, inputs["steered_per_token_logps"])
        else:
            weight_BT = shaped_weight(logps_BT)
            if old_BT is not None:  # the shaped weight replaces the ratio, so the ratio is set to 1 and never clipped
                inputs["old_per_token_logps"] = torch.where(steered_BT, logps_BT, old_BT)
        inputs["advantages"] = inputs["advantages"][:, None] * torch.where(steered_BT, weight_BT, 1.0)


class SteeredRLOOTrainer(SteeredRolloutMixin, RLOOTrainer):
    """`trl.RLOOTrainer` with one rollout of each group steered. Source: arXiv:2605.11887, section 8.

    Args: as in `SteeredGRPOTrainer`, with a `SteeredRLOOConfig`.
    Example:
        >>> args = SteeredRLOOConfig("out", features="loops.safetensors", num_generations=4)
        >>> SteeredRLOOTrainer(model, reward_funcs=[LoopPenalty()], args=args, train_dataset=prompts).train()
    """

    _tag_names = ["trl", "rloo", "steered-rollouts", "sae-posttrain"]  # noqa: RUF012
    _name = "RLOO with steered rollouts"
    _config_class, _plain_class = SteeredRLOOConfig, RLOOTrainer

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        found = super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
        )
        batch = self._batch
        if batch is not None and batch.filters_overlong:  # RLOO adds them to the rewards before it applies the mask
            completions_BT, mask_BT = input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:]
            kept_B = batch.kept(completions_BT, mask_BT, self._end_or_padding())
            found = (found[0] * kept_B[:, None], *found[1:])
        return found

    def _outside_baseline(self, output: Any, batch: SteeredBatch) -> Tensor:
        scored_N = ~batch.rewards(self.reward_weights).isnan()
        steered_N = batch.steered_everywhere(self.accelerator.device)
        advantages_N = self.accelerator.gather(output["advantages"])
        return leave_one_out_outside_baseline(advantages_N, scored_N, steered_N, self.num_generations)
