"""Gradients of a step with steered tokens weighed, against the formulas written out on the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from steering_cases import replaced_blocks
from tiny_models import BLOCKS, WIDTH
from torch import Tensor

from .world import GROUP, Watched, model, steered, varied

ALPHA, GAMMA = 6.0, 0.1
TWO_GROUPS = {"per_device_train_batch_size": 2 * GROUP, "loss_type": "dapo", "epsilon_high": 0.28}


def logps_of(of: torch.nn.Module, output: dict[str, Tensor]) -> Tensor:
    """Of each completion token, from a plain forward."""
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
    logits = of(input_ids=ids, attention_mask=mask, use_cache=False).logits.log_softmax(dim=-1)
    start = output["prompt_ids"].shape[1]
    return logits[:, start - 1 : -1].gather(2, output["completion_ids"][:, :, None]).squeeze(2)


def steered_logps(of: torch.nn.Module, output: dict[str, Tensor]) -> Tensor:
    """As above, with the last block writing what steering writes, from the last prompt position on."""
    start = output["prompt_ids"].shape[1]

    def delta(length: int) -> Tensor:
        steered = (output["steered_tokens"] > 0)[:, None] & (torch.arange(length) >= start - 1)
        return ALPHA * steered[:, :, None] * torch.eye(WIDTH)[0]

    with torch.no_grad(), replaced_blocks(of, {BLOCKS - 1: delta}):
        return logps_of(of, output)


def gradient_by_hand(watched: Watched, off_policy: str) -> Tensor:
    """DAPO's gradient over the last batch at the trainer's present weights."""
    output, of = watched.generated[-1], model()
    sampling = steered_logps(of, output)  # by the weights it was sampled with
    of.load_state_dict(watched.trainer.model.state_dict())
    logps = logps_of(of, output)
    old = output.get("old_per_token_logps", logps.detach())
    ratio, advantage = (logps - old).exp(), output["advantages"][:, None]
    gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)
    steered = (output["steered_tokens"] > 0)[:, None]
    if off_policy == "truncated_is":
        gain = gain * torch.where(steered, (old - sampling).exp().clamp(max=1.0), 1.0)
    elif off_policy == "shaped":
        gain = torch.where(steered, advantage * logps.exp() / (logps.exp() + GAMMA), gain)
    loss = -(gain * output["completion_mask"]).sum() / output["num_items_in_batch"]
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in of.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("off_policy", ["on_policy", "truncated_is", "shaped"])
def test_one_step(off_policy: str, tmp_path: Path) -> None:
    found = Watched(steered(tmp_path, off_policy=off_policy, steering_alpha=ALPHA, **TWO_GROUPS))
    found.once()
    torch.testing.assert_close(found.gradient(range(2 * GROUP)), gradient_by_hand(found, off_policy))


@pytest.mark.parametrize("off_policy", ["on_policy", "truncated_is", "shaped"])
def test_a_second_pass_over_the_same_rollouts(off_policy: str, tmp_path: Path) -> None:
    """The weights have moved, so that ratios are not 1 and some are clipped."""
    settings = {"num_iterations": 2, "max_steps": 1, "learning_rate": 2e-3}
    found = Watched(steered(tmp_path, off_policy=off_policy, steering_alpha=ALPHA, **TWO_GROUPS, **settings)).trained()
    torch.testing.assert_close(
        found.gradient(range(2 * GROUP)), gradient_by_hand(found, off_policy), rtol=1e-4, atol=1e-5
    )


def test_the_steered_log_probabilities_are_those_it_was_sampled_with(tmp_path: Path) -> None:
    found = Watched(steered(tmp_path, off_policy="truncated_is", steering_alpha=ALPHA, **TWO_GROUPS))
    made = found.once()
    rows = made["steered_tokens"] > 0
    torch.testing.assert_close(made["steered_per_token_logps"][rows], steered_logps(model(), made)[rows])
    assert (made["steered_per_token_logps"][rows] - logps_of(model(), made)[rows]).abs().max() > 1
    assert not made["steered_per_token_logps"][~rows].any()


@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
def test_ordinary_rows_have_the_advantages_they_have_without_the_steered(scale_rewards: str, tmp_path: Path) -> None:
    """The same three rows in a group of their own; the completions table says the same."""
    settings = {"scale_rewards": scale_rewards, "per_device_train_batch_size": 2 * GROUP}
    found = Watched(steered(tmp_path, steered_in_baseline=False, **settings))
    made = found.once()
    rewards = torch.tensor(varied(found.texts)).view(2, GROUP)
    ordinary = rewards[:, 1:]
    expected = ordinary - ordinary.mean(dim=1, keepdim=True)
    if scale_rewards != "none":
        expected = expected / (
            (ordinary.std(dim=1, keepdim=True) if scale_rewards == "group" else ordinary.std()) + 1e-4
        )
    torch.testing.assert_close(made["advantages"].view(2, GROUP)[:, 1:], expected)
    assert (made["advantages"].view(2, GROUP)[:, 0] < 0).all()
    assert list(found.trainer._logs["advantages"]) == made["advantages"].tolist()


def test_in_the_baseline_the_steered_row_raises_the_others(tmp_path: Path) -> None:
    found = Watched(steered(tmp_path, scale_rewards="none"))
    made = found.once()
    rewards = torch.tensor(varied(found.texts))
    torch.testing.assert_close(made["advantages"], rewards - rewards.mean())
    without = Watched(steered(tmp_path, scale_rewards="none", steered_in_baseline=False)).once()["advantages"]
    assert (without[1:] < made["advantages"][1:]).all()
