"""How the loss weighs steered rows: their advantages, and the weights of their tokens."""

# N rows of all processes, B rows of one batch, T completion tokens

from __future__ import annotations

import torch
from torch import Tensor

GAMMA = 0.1  # the constant of LUFFY's policy shaping


def advantages_outside_baseline(rewards_N: Tensor, steered_N: Tensor, group: int, scale: str) -> Tensor:
    """Group-relative advantages whose baseline does not include the steered rewards.

    Ordinary rows get the advantages of a group without the steered rows. A steered row is compared with the mean of the
    ordinary rows, and divided by the std of the whole group, since the std of the ordinary rows is 0 if their rewards
    are equal.

    Args:
        rewards_N: rewards; NaN where a completion could not be scored.
        steered_N: which rows are steered.
        group: rows in a group.
        scale: TRL's `scale_rewards`: `group`, `batch` or `none`.

    Returns:
        Advantages `(N,)`; 0 where the reward is NaN.
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
    """RLOO's advantages with a baseline that does not include the steered rewards.

    Args:
        advantages_N: RLOO's own: each reward minus the mean of the other scored rewards of its group.
        scored_N: which rows have a reward.
        steered_N: which rows are steered.
        group: rows in a group.

    Returns:
        Advantages `(N,)`; 0 where a row has no reward.
    """
    scored, plain = scored_N.view(-1, group), (scored_N & ~steered_N).view(-1, group)
    count, count_plain = scored.sum(dim=1, keepdim=True), plain.sum(dim=1, keepdim=True)
    # A reward minus the mean of the n - 1 others is n / (n - 1) times the reward minus the mean of all n.
    centred_N = (advantages_N.view(-1, group) * (count - 1) / count).masked_fill(~scored, torch.nan).view(-1)
    again_GN = advantages_outside_baseline(centred_N, steered_N, group, "none").view(-1, group)
    return torch.where(plain, again_GN * count_plain / (count_plain - 1), again_GN).nan_to_num(nan=0.0).view(-1)


def truncated_weight(logps_BT: Tensor, steered_logps_BT: Tensor) -> Tensor:
    """The truncated importance weight of each token: min(1, pi / pi_steered), `(B, T)`."""
    return (logps_BT - steered_logps_BT).exp().clamp(max=1.0)


def shaped_weight(logps_BT: Tensor) -> Tensor:
    """The weight `(B, T)` with which a token's policy gradient is that of pi / (pi + gamma).

    d [pi / (pi + gamma)] = gamma · pi / (pi + gamma)² · d log pi. Source: arXiv:2504.14945, policy shaping.
    """
    pi_BT = logps_BT.exp()
    return GAMMA * pi_BT / (pi_BT + GAMMA) ** 2


def capped_tokens(steered: Tensor, ordinary: Tensor, share: float) -> Tensor:
    """The number of tokens that the steered ones count as, so that they make up at most `share` of all tokens."""
    if share == 1 or ordinary == 0:
        return steered
    return torch.minimum(steered, ordinary * share / (1 - share))


def steered_positions(completion_ids_BT: Tensor, steered_tokens_B: Tensor) -> Tensor:
    """Which completion tokens `(B, T)` were sampled while steering: those of each steered row's first turn."""
    places_T = torch.arange(completion_ids_BT.shape[1], device=completion_ids_BT.device)
    steered_BT: Tensor = places_T < steered_tokens_B[:, None]
    return steered_BT


def _std(values_GN: Tensor, over: int | None) -> Tensor:
    """Standard deviation of the values that are not NaN; NaN if there are fewer than two."""
    over_all = (0, 1) if over is None else over
    count = (~values_GN.isnan()).sum(dim=over_all, keepdim=True)
    centred_GN = values_GN - values_GN.nanmean(dim=over_all, keepdim=True)
    return (centred_GN.square().nansum(dim=over_all, keepdim=True) / (count - 1)).sqrt()
