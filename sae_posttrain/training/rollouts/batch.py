"""One generation batch on its way through a trainer's methods."""

# N rows of all processes, B rows of this process, F reward functions, T completion tokens

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .plan import RolloutPlan


@dataclass
class SteeredBatch:
    """The state of one generation batch that the trainer's methods share, from its plan to its rewards.

    TRL calls these methods one after the other and passes none of these values on. Every batch gets a new object, so
    that no method can read the state of an earlier batch.

    Args:
        plan: which rows are steered. In evaluation no row is steered.
        filters_overlong: whether the trainer filters completions that are cut at the token limit, sparing steered ones.
        steered_tokens: for each row of this process, how many tokens were sampled while steering. None before the first
            turn is generated. Later turns of a conversation with tools add none.
        ended: the rows of this process that were ended because they looped. Empty before the first turn is generated.
        rewards_per_func: `(N, F)`, NaN where a function gave no reward. None before the rewards are computed.
    """

    plan: RolloutPlan
    filters_overlong: bool
    steered_tokens: list[int] | None = None
    ended: frozenset[int] = frozenset()
    rewards_per_func: Tensor | None = None

    @property
    def awaits_steering(self) -> bool:
        """Whether the next turn must be steered. Only the first turn of a batch is steered."""
        return bool(self.plan) and self.steered_tokens is None

    def note_first_turn(self, completion_ids: list[list[int]], ended: frozenset[int]) -> None:
        """Record how many tokens of each completion were sampled while steering, and which rows were ended."""
        here = self.plan.here
        self.steered_tokens = [len(ids) * steered for ids, steered in zip(completion_ids, here, strict=True)]
        self.ended = ended

    def steered_counts(self, device: torch.device) -> Tensor:
        """`steered_tokens` as a `(B,)` tensor."""
        assert self.steered_tokens is not None, "read before the first turn was generated"
        return torch.tensor(self.steered_tokens, device=device)

    def steered_everywhere(self, device: torch.device) -> Tensor:
        """`(N,)`: for each row of all processes, whether it is steered."""
        return torch.tensor(self.plan.everywhere, device=device)

    def rewards(self, weights_F: Tensor) -> Tensor:
        """`(N,)`: the rewards, weighted and summed; NaN where no function gave one."""
        per_func_NF = self.rewards_per_func
        assert per_func_NF is not None, "read before the rewards were computed"
        rewards_N = (per_func_NF * weights_F.to(per_func_NF.device)).nansum(dim=1)
        return rewards_N.masked_fill(per_func_NF.isnan().all(dim=1), torch.nan)

    def kept(self, ids_BT: Tensor, mask_BT: Tensor, end_ids: list[int]) -> Tensor:
        """`(B,)`: which completions overlong filtering keeps: steered ones and those that end with one of `end_ids`."""
        last_B = ids_BT.gather(1, mask_BT.sum(dim=1, keepdim=True) - 1).squeeze(1)
        ended_B = torch.isin(last_B, torch.tensor(end_ids, device=last_B.device))
        return ended_B | (self.steered_counts(last_B.device) > 0)
