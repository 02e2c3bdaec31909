"""TRL's GRPO and RLOO trainers with one rollout of each group steered."""

# N rows of all processes, B rows of one batch, P prompt, T completion tokens

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

try:
    from trl import GRPOTrainer, RLOOTrainer
except ImportError as error:
    raise ImportError("Steered rollouts need TRL, which is not installed: pip install 'sae-posttrain[trl]'.") from error

from ...artefacts import LOOP_RATES, STEERING_METRICS
from ...feature_set import FeatureSet
from ...metrics.loops import find_loop
from ..cards import CardMixin, default_output_dir
from .batch import SteeredBatch
from .config import SteeredGRPOConfig, SteeredRLOOConfig
from .plan import plan_for
from .row_temperature import logps_at
from .source import features_for, source_of
from .turn import end_tokens, prepare, steered_turn
from .weighing import (
    advantages_outside_baseline,
    capped_tokens,
    leave_one_out_outside_baseline,
    shaped_weight,
    steered_positions,
    truncated_weight,
)

if TYPE_CHECKING:
    from trl import GRPOTrainer as _Trainer  # or RLOOTrainer
else:
    _Trainer = object


class SteeredRolloutMixin(CardMixin, _Trainer):
    """Adds steered rollouts to a TRL trainer, as the base class before it. Source: arXiv:2605.11887, section 8.

    One rollout of each group is steered by `args.features`. The others are generated as usual, and all get the same
    reward functions. Settings that would remove the steered rollout from the loss do not apply to it:
    `mask_truncated_completions`, since a loop is cut at the token limit, and off-policy corrections, since a loop is
    unlikely under the policy. Evaluation is never steered.
    """

    _config_class: Any
    _plain_class: Any
    _paper = {"title": "Qwen-Scope technical report", "id": "2605.11887"}  # noqa: RUF012
    mask_truncated_completions: Any
    _batch: SteeredBatch | None = None  # set while a batch is generated and scored

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: Any = None,
        *positional: Any,
        features: FeatureSet | str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        if args is None:
            args = self._config_class(default_output_dir(model, f"Steered{self._plain_class._name}"))
        if not isinstance(args, self._config_class):
            raise ValueError(
                f"{type(self).__name__} needs a {self._config_class.__name__} as args, not {type(args).__name__}."
            )
        if args.steered_per_group and kwargs.get("rollout_func") is not None:
            raise ValueError(
                f"A rollout_func generates its own rollouts, so {type(self).__name__} cannot steer them. Leave "
                "rollout_func out, or use trl.GRPOTrainer with steered_rollout_func."
            )
        if args.steered_per_group == 0:
            self._use_card_of(self._plain_class)
        features = features_for(args, features)  # first, since it may fail and loading the model takes long
        super().__init__(model, reward_funcs, args, *positional, **kwargs)
        self.source = source_of(args, features, self.model, model if isinstance(model, str) else None, args.seed)
        prepare(self)

    def _generate_single_turn(self, prompt_ids: Any, images: Any, fields: Any, *rest: Any, **settings: Any) -> Any:
        parent: Any = super()

        def turn(prompt_ids: Any, images: Any, fields: Any) -> Any:
            return parent._generate_single_turn(prompt_ids, images, fields, *rest, **settings)

        # Later turns of a conversation with tools continue the first turn's text and are not steered.
        batch = self._batch
        if batch is None or not batch.awaits_steering:
            return turn(prompt_ids, images, fields)
        made = steered_turn(self, turn, self.source, batch.plan, prompt_ids=prompt_ids, images=images, fields=fields)
        batch.count_steered(made[0] if isinstance(made, tuple) else made)
        return made

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        with self._new_batch(len(inputs)) as batch:
            output = super()._generate_and_score_completions(inputs)
        if batch.plan:
            self._finish(output, batch)
        return output

    @contextmanager
    def _new_batch(self, rows: int) -> Iterator[SteeredBatch]:
        """Set `_batch` for the methods called inside. TRL's own overlong filtering is off if any row is steered."""
        plan = plan_for(self, self.args, rows)
        filters_overlong = self.mask_truncated_completions
        self._batch = SteeredBatch(plan, filters_overlong and bool(plan))
        if plan:
            self.mask_truncated_completions = False
        try:
            yield self._batch
        finally:
            self._batch, self.mask_truncated_completions = None, filters_overlong

    def _finish(self, output: Any, batch: SteeredBatch) -> None:
        """Exempt the steered rows of a scored batch from overlong filtering and off-policy masks, and log them."""
        output["steered_tokens"] = batch.steered_counts(self.accelerator.device)
        if batch.filters_overlong:
            self._mask_truncated(output, batch)
        if not self.args.steered_in_baseline:
            self._take_from_baseline(output, batch)
        self._count(output, batch)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        batch = self._batch
        assert batch is not None, "TRL scores outside of _generate_and_score_completions"
        here = batch.plan.here
        marked = [{**row, "steered": steered} for row, steered in zip(inputs, here, strict=True)]
        self._log_completion_extra("steered", list(here))
        for ids, steered in zip(completion_ids_list, here, strict=True):
            loop = find_loop(ids, self.args.loop_settings)
            self._log_metric(LOOP_RATES[steered], float(loop is not None))
        rewards = super()._calculate_rewards(marked, prompts, completions, completion_ids_list)
        batch.rewards_per_func = rewards
        return rewards

    def _mask_truncated(self, output: Any, batch: SteeredBatch) -> None:
        """Apply `mask_truncated_completions` as TRL does, except to steered rows."""
        kept_B = batch.kept(output["completion_ids"], output["completion_mask"], self._end_or_padding())
        for name in ("completion_mask", "tool_mask"):
            if name in output:
                output[name] = output[name] * kept_B[:, None].int()

    def _end_or_padding(self) -> list[int]:
        return [*end_tokens(self), self._tokenizer.pad_token_id]

    def _take_from_baseline(self, output: Any, batch: SteeredBatch) -> None:
        """Compare every reward with the ordinary rows' rewards only, in the completions table too."""
        advantages_N = self._outside_baseline(output, batch)
        output["advantages"] = advantages_N[batch.plan.process * batch.plan.size :][: batch.plan.size].clone()
        logged = self._logs["advantages"]
        for place in range(min(len(logged), len(advantages_N))):
            logged[-1 - place] = advantages_N[-1 - place].item()

    def _outside_baseline(self, output: Any, batch: SteeredBatch) -> Tensor:
        raise NotImplementedError  # every rollout's advantage over the ordinary ones: GRPO and RLOO each define it

    def _count(self, output: Any, batch: SteeredBatch) -> None:
        """Apply `max_steered_token_share`, and log the steered rows' reward, advantage and share of the tokens."""
        steered_B = output["steered_tokens"] > 0
        tokens_B = (output["completion_mask"] * output.get("tool_mask", 1)).sum(dim=1)
        counts = torch.stack([tokens_B[steered_B].sum(), tokens_B[~steered_B].sum()])
        steered, ordinary = self.accelerator.gather(counts).view(-1, 2).sum(dim=0)
        counted = capped_tokens(steered, ordinary, getattr(self.args, "max_steered_token_share", 1.0))
        if "num_items_in_batch" in output:
            output["num_items_in_batch"] = counted + ordinary

        advantage = self.accelerator.gather(output["advantages"][steered_B].sum()).sum() / sum(batch.plan.everywhere)
        if counted < steered:
            output["advantages"] = torch.where(steered_B, counted / steered, 1.0) * output["advantages"]
        reward = batch.rewards(self.reward_weights)[batch.steered_everywhere(self.accelerator.device)].nanmean()
        share = counted / (counted + ordinary).clamp(min=1)
        for name, value in zip(STEERING_METRICS, (reward, advantage, share), strict=True):
            self._metrics["train"][name].append(value.item())


class SteeredGRPOTrainer(SteeredRolloutMixin, GRPOTrainer):
    """`trl.GRPOTrainer` with one rollout of each group steered. Source: arXiv:2605.11887, section 8.

    Args:
        args: a `SteeredGRPOConfig` with the features and the strength of steering. Without it, all settings have their
            defaults, and `features` must hold a calibrated `alpha`; the output folder is `<model>-SteeredGRPO`.
        features: a feature set or its path, instead of `args.features`.
        other arguments: as in `GRPOTrainer`. Reward functions are given `steered`, true or false for each completion.

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
