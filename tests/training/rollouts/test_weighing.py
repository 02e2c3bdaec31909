"""Advantages and weights of steered rows, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from sae_posttrain.training.rollouts.weighing import (
    advantages_outside_baseline,
    capped_tokens,
    leave_one_out_outside_baseline,
    shaped_weight,
    truncated_weight,
)

STEERED = torch.tensor([True, False, False, False] * 2)
REWARDS = torch.tensor([-2.0, 1.0, 2.0, 3.0, 0.0, 1.0, 1.0, 1.0])


def test_ordinary_rows_are_compared_among_themselves_and_the_steered_with_them() -> None:
    found = advantages_outside_baseline(REWARDS, STEERED, 4, "group")
    # First group: ordinary mean 2, std 1. With the steered row: mean 1, squares 9 + 0 + 1 + 4, std sqrt(14 / 3).
    # Second: ordinary std 0, so nothing to learn from them; the whole group's is 1/2.
    steered = -4 / (math.sqrt(14 / 3) + 1e-4)
    expected = [steered, -1 / (1 + 1e-4), 0.0, 1 / (1 + 1e-4), -1 / (0.5 + 1e-4), 0.0, 0.0, 0.0]
    assert found.tolist() == pytest.approx(expected)


def test_without_scale_and_with_the_whole_batchs() -> None:
    assert advantages_outside_baseline(REWARDS, STEERED, 4, "none").tolist() == [-4, -1, 0, 1, -1, 0, 0, 0]
    found = advantages_outside_baseline(REWARDS, STEERED, 4, "batch")
    plain, whole = REWARDS[~STEERED].std().item() + 1e-4, REWARDS.std().item() + 1e-4
    assert found.tolist() == pytest.approx([-4 / whole, -1 / plain, 0, 1 / plain, -1 / whole, 0, 0, 0])


def test_what_could_not_be_scored_has_no_advantage_and_counts_for_nobody() -> None:
    rewards = torch.tensor([0.0, math.nan, 2.0, 4.0])
    found = advantages_outside_baseline(rewards, STEERED[:4], 4, "none")
    assert found.tolist() == [-3.0, 0.0, -1.0, 1.0]


def leave_one_out(rewards: list[float]) -> list[float]:
    total, count = sum(rewards), len(rewards)
    return [reward - (total - reward) / (count - 1) for reward in rewards]


def test_leaving_one_out_leaves_the_steered_out_as_well() -> None:
    advantages = torch.tensor(leave_one_out([-2.0, 1.0, 2.0, 3.0]))
    found = leave_one_out_outside_baseline(advantages, torch.tensor([True] * 4), STEERED[:4], 4)
    assert found.tolist() == pytest.approx([-4.0, *leave_one_out([1.0, 2.0, 3.0])])


def test_leaving_one_out_where_one_could_not_be_scored() -> None:
    first, second, third = leave_one_out([-2.0, 1.0, 3.0])
    scored = torch.tensor([True, False, True, True])
    found = leave_one_out_outside_baseline(torch.tensor([first, 0.0, second, third]), scored, STEERED[:4], 4)
    assert found.tolist() == pytest.approx([-4.0, 0.0, *leave_one_out([1.0, 3.0])])


def test_a_token_that_steering_made_likelier_weighs_less_and_none_weighs_more() -> None:
    logps, steered = torch.tensor([[0.1, 0.6, 0.3]]).log(), torch.tensor([[0.8, 0.2, 0.3]]).log()
    assert truncated_weight(logps, steered).tolist() == [pytest.approx([0.125, 1.0, 1.0])]


def test_shaping_is_the_gradient_of_its_function() -> None:
    logps = torch.tensor([-0.01, -0.7, -3.0, -9.0], dtype=torch.float64, requires_grad=True)
    pi = logps.exp()
    (pi / (pi + 0.1)).sum().backward()
    assert shaped_weight(logps.detach()).tolist() == pytest.approx(logps.grad.tolist())


@pytest.mark.parametrize(
    ("steered", "ordinary", "share", "counted"),
    [(100, 300, 1.0, 100), (100, 300, 0.25, 100), (900, 300, 0.25, 100), (900, 0, 0.25, 900), (0, 300, 0.25, 0)],
)
def test_steered_tokens_count_for_their_share_at_most(steered: int, ordinary: int, share: float, counted: int) -> None:
    assert capped_tokens(torch.tensor(steered), torch.tensor(ordinary), share).item() == counted
