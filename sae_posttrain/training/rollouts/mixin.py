"""Steered rollouts for a trainer of TRL: the mixin that the GRPO and RLOO trainers share."""

# N rows of all processes, B rows of one batch

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...artefacts import LOOP_RATES, STEERING_METRICS, STEERING_STOPPED
from ...feature_set import FeatureSet
from ...metrics.loops import find_loop
from ..cards import CardMixin, default_output_dir
from .batch import SteeredBatch
from .in_vllm import InVLLM, given_to_vllm
from .plan import plan_for
from .source import features_for, source_of, steering_set
from .turn import end_tokens, prepare, steered_turn
from .weighing import capped_tokens

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
        chosen = steering_set(args, features, args.seed)
        in_process = args.use_vllm and args.steer_in_vllm and args.vllm_mode == "colocate"
        with given_to_vllm(chosen if in_process else None):
            super().__init__(model, reward_funcs, args, *positional, **kwargs)
        self.source = source_of(args, features, chosen, self.model, model if isinstance(model, str) else None)
        self.in_vllm = InVLLM(self.source, chosen) if args.steer_in_vllm else None
        prepare(self)

    def _generate_single_turn(self, prompt_ids: Any, images: Any, fields: Any, *rest: Any, **settings: Any) -> Any:
        parent: Any = super()

        def turn(prompt_ids: Any, images: Any, fields: Any) -> Any:
            return parent._generate_single_turn(prompt_ids, images, fields, *rest, **settings)

        batch = self._batch  # later turns of a conversation with tools are not steered
        if batch is None or not batch.awaits_steering:
            return turn(prompt_ids, images, fields)
        inputs = {"prompt_ids": prompt_ids, "images": images, "fields": fields}
        steered = steered_turn(self, turn, self.source, batch.plan, self.in_vllm, **inputs)
        batch.note_first_turn(steered.completions, steered.ended)
        return steered.made

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
        here, marked = list(batch.plan.here), []
        self._log_completion_extra("steered", here)
        for number, (row, ids, steered) in enumerate(zip(inputs, completion_ids_list, here, strict=True)):
            marked.append({**row, "steered": steered, "stopped": number in batch.ended})
            loops = float(find_loop(ids, self.args.loop_settings) is not None)
            self._log_metric(LOOP_RATES[steered], loops)
            if steered and self.source.stop_at:
                self._log_metric(STEERING_STOPPED, float(number in batch.ended))
        rewards = super()._calculate_rewards(marked, prompts, completions, completion_ids_list)
        batch.rewards_per_func = rewards
        return rewards

    def _mask_truncated(self, output: Any, batch: SteeredBatch) -> None:
        """Apply `mask_truncated_completions` as TRL does, except to steered rows."""
        kept_B = batch.kept(output["completion_ids"], output["completion_mask"], self._end_or_padding())
        for name in output.keys() & {"completion_mask", "tool_mask"}:
            output[name] = output[name] * kept_B[:, None].int()

    def _end_or_padding(self) -> list[int]:
        return [*end_tokens(self), self._tokenizer.pad_token_id]

    def _take_from_baseline(self, output: Any, batch: SteeredBatch) -> None:
        """Compare every reward with the ordinary rows' rewards only, in the completions table too."""
        plan = batch.plan
        advantages_N = self._outside_baseline(output, batch)
        output["advantages"] = advantages_N[plan.process * plan.size :][: plan.size].clone()
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
