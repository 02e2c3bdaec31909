"""What steered rows weigh in the loss: their advantages, and weights of their tokens."""

# N rows of all processes, B rows of one batch, T completion tokens

from __future__ import annotations

import torch
from torch import Tensor

GAMMA = 0.1  # of LUFFY's shaping


def advantages_outside_baseline(rewards_N: Tensor, steered_N: Tensor, group: int, scale: str) -> Tensor:
    """Group-relative advantages `(N,)` when steered rewards stay out of the mean and the std they are compared with.

    Ordinary rows come out as if the steered ones were not there. A steered row is compared with the ordinary rows'
    mean, in units of the whole group's std: the ordinary rows' own is zero where they all did equally well.

    rewards_N: NaN where a completion could not be scored. scale: TRL's `scale_rewards`: group, batch or none.
    """
    whole_GN = rewards_N.view(-1, group)
    steered_GN = steered_N.view(-1, group)
    plain_GN = whole_GN.masked_fill(steered_GN, torch.nan)
    advantages_GN = whole_GN - plain_GN.nanmean(dim=1, keepdim=True)
    if scale != "none":
        over = None if scale == "batch" else 1
        std_GN = torch.where(steered_GN, _std(whole_GN, over), _std(plain_GN, over))
        advantages_GN = advantages_GN / (std_GN + 1e-4)
    return advantages_GN.reshape(-1).nan_to_num(nan=0.0)


def leave_one_out_outside_baseline(advantages_N: Tensor, scored_N: Tensor, steered_N: Tensor, group: int) -> Tensor:
    """RLOO's advantages `(N,)` when steered rewards stay out of the baseline.

    advantages_N: RLOO's own, each reward minus the mean of its scored siblings'.
    """
    scored, plain = scored_N.view(-1, group), (scored_N & ~steered_N).view(-1, group)
    count, count_plain = scored.sum(dim=1, keepdim=True), plain.sum(dim=1, keepdim=True)
    # A reward minus the mean of the n - 1 others is n / (n - 1) times the reward minus the mean of all n.
    centred_N = (advantages_N.view(-1, group) * (count - 1) / count).masked_fill(~scored, torch.nan).view(-1)
    again_GN = advantages_outside_baseline(centred_N, steered_N, group, "none").view(-1, group)
    return torch.where(plain, again_GN * count_plain / (count_plain - 1), again_GN).nan_to_num(nan=0.0).view(-1)


def truncated_weight(logps_BT: Tensor, steered_logps_BT: Tensor) -> Tensor:
    """min(1, pi / pi_steered) of each token."""
    return (logps_BT - steered_logps_BT).exp().clamp(max=1.0)


def shaped_weight(logps_BT: Tensor) -> Tensor:
    """What makes a token's policy gradient that of pi / (pi + gamma). Source: arXiv:2504.14945, policy shaping.

    d [pi / (pi + gamma)] = gamma · pi / (pi + gamma)² · d log pi.
    """
    pi_BT = logps_BT.exp()
    return GAMMA * pi_BT / (pi_BT + GAMMA) ** 2


def capped_tokens(steered: Tensor, ordinary: Tensor, share: float) -> Tensor:
    """How many tokens `steered` ones count for, so that they are at most `share` of all that count."""
    if share == 1 or ordinary == 0:
        return steered
    return torch.minimum(steered, ordinary * share / (1 - share))


def _std(values_GN: Tensor, over: int | None) -> Tensor:
    """Standard deviation without what is NaN; NaN of fewer than two."""
    over_all = (0, 1) if over is None else over
    count = (~values_GN.isnan()).sum(dim=over_all, keepdim=True)
    centred_GN = values_GN - values_GN.nanmean(dim=over_all, keepdim=True)
    return (centred_GN.square().nansum(dim=over_all, keepdim=True) / (count - 1)).sqrt()
