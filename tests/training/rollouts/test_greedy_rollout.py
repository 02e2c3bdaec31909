"""The control `greedy_rollout`: one rollout of each group at a temperature of its own, in the same generate call."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from trl import GRPOTrainer

from sae_posttrain.training.rollouts import SteeredGRPOConfig, steered_rollout_func
from sae_posttrain.training.rollouts.row_temperature import RowTemperature, row_temperature

from .test_off_policy import logps_of
from .vllm import as_if_vllm_had_generated
from .world import GROUP, LENGTH, Watched, model, plain, rloo, settings, steered, steered_rloo, trained, weights

GREEDY = {"steering_control": "greedy_rollout", "features": None, "steering_alpha": None}
TWO_GROUPS = {"per_device_train_batch_size": 2 * GROUP}
FIRST = [0, GROUP]  # row of each group


def greedy_completions(output: dict[str, Tensor], rows: list[int]) -> list[list[int]]:
    """What the model answers greedily to the prompts of these rows, without their padding."""
    found = []
    for row in rows:
        prompt = output["prompt_ids"][row][output["prompt_mask"][row].bool()]
        made = model().generate(input_ids=prompt[None], do_sample=False, max_new_tokens=LENGTH, pad_token_id=0)
        found.append(made[0, len(prompt) :].tolist())
    return found


def completions(output: dict[str, Tensor], rows: list[int]) -> list[list[int]]:
    return [output["completion_ids"][row][output["completion_mask"][row].bool()].tolist() for row in rows]


def test_the_first_row_of_each_group_is_greedy_and_the_others_are_as_in_plain_grpo(tmp_path: Path) -> None:
    ordinary = Watched(plain(tmp_path, temperature=1.3, **TWO_GROUPS)).once()
    made = Watched(steered(tmp_path, temperature=1.3, **TWO_GROUPS, **GREEDY)).once()
    assert completions(made, FIRST) == greedy_completions(made, FIRST) != completions(ordinary, FIRST)
    others = [row for row in range(2 * GROUP) if row not in FIRST]
    assert completions(made, others) == completions(ordinary, others)
    assert (made["steered_tokens"] > 0).tolist() == [True, False, False, False] * 2


def test_at_the_shared_temperature_nothing_would_change() -> None:
    """The scores that `generate` divides by its temperature are those of the rows' own temperature."""
    torch.manual_seed(0)
    scores, rows = torch.randn(3, 7), torch.tensor([True, False, True])
    found = RowTemperature(rows, 0.25, shared=0.5)(torch.empty(3, 0), scores) / 0.5
    torch.testing.assert_close(found[rows], scores[rows] / 0.25)
    assert torch.equal(found[1], scores[1] / 0.5)
    greedy = RowTemperature(rows, 0.0, shared=0.5)(torch.empty(3, 0), scores).softmax(dim=-1)
    assert torch.equal(greedy[rows].argmax(dim=-1), scores[rows].argmax(dim=-1))
    assert greedy[rows].max(dim=-1).values.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_truncated_weights_take_the_rows_own_temperature(temperature: float, tmp_path: Path) -> None:
    changes = {"off_policy": "truncated_is", "greedy_rollout_temperature": temperature, "temperature": 0.8}
    made = Watched(steered(tmp_path, loss_type="dapo", **TWO_GROUPS, **GREEDY, **changes)).once()
    expected = torch.zeros(len(FIRST), made["completion_ids"].shape[1])
    if temperature:
        expected = logps_of(lambda **inputs: scaled(model()(**inputs), temperature), made)[FIRST]
    inside = made["completion_mask"][FIRST].bool()
    torch.testing.assert_close(made["steered_per_token_logps"][FIRST][inside], expected[inside])


@pytest.mark.parametrize("own", [0.0, 0.3])
def test_the_gradient_of_a_truncated_row_is_weighed_by_the_policys_probability(own: float, tmp_path: Path) -> None:
    """A token's weight is min(1, pi / the probability it was sampled with), which is 1 for a greedy token: by hand."""
    changes = {"off_policy": "truncated_is", "temperature": 0.8, "loss_type": "dapo", "greedy_rollout_temperature": own}
    watched = Watched(steered(tmp_path, **TWO_GROUPS, **GREEDY, **changes))
    made, of = watched.once(), model()
    logps = logps_of(lambda **inputs: scaled(of(**inputs), 0.8), made)
    sampled = logps_of(lambda **inputs: scaled(of(**inputs), own), made).detach() if own else torch.tensor(0.0)
    weight = (logps.detach() - sampled).exp().clamp(max=1.0)
    steered_rows = (made["steered_tokens"] > 0)[:, None]
    assert (weight[FIRST][made["completion_mask"][FIRST].bool()] < 0.99).any(), "some tokens are weighed"
    gain = made["advantages"][:, None] * (logps - logps.detach()).exp()
    gain = gain * torch.where(steered_rows, weight, 1.0)
    (-(gain * made["completion_mask"]).sum() / made["num_items_in_batch"]).backward()
    expected = torch.cat([one.grad.flatten() for one in of.parameters() if one.grad is not None])
    torch.testing.assert_close(watched.gradient(range(2 * GROUP)), expected, rtol=1e-4, atol=1e-6)


def scaled(output: Any, temperature: float) -> Any:
    output.logits = output.logits / temperature
    return output


def test_without_a_greedy_rollout_it_is_plain_grpo_bit_for_bit(tmp_path: Path) -> None:
    expected = trained(plain(tmp_path, max_steps=2))
    found = trained(steered(tmp_path, max_steps=2, steered_per_group=0, **GREEDY))
    assert all(torch.equal(a, b) for a, b in zip(weights(expected), weights(found), strict=True))


def test_in_rloo_and_in_trls_own_trainer(tmp_path: Path) -> None:
    made = Watched(steered_rloo(tmp_path, **GREEDY)).once()
    assert completions(made, [0]) == greedy_completions(made, [0])
    assert completions(made, [1, 2, 3]) == completions(Watched(rloo(tmp_path)).once(), [1, 2, 3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # TRL calls rollout_func experimental
        trainer = plain(tmp_path, rollout_func=steered_rollout_func(None, control="greedy_rollout"))
    assert isinstance(trainer, GRPOTrainer)
    made = Watched(trainer).once()
    assert completions(made, [0]) == greedy_completions(made, [0])


def test_beside_vllm_the_row_is_generated_again_greedily(tmp_path: Path) -> None:
    rows = [[5, 6, 1], [7, 1], [8, 9, 10, 1], [11, 1]]
    made = as_if_vllm_had_generated(steered(tmp_path, **GREEDY), rows).once()
    assert completions(made, [0]) == greedy_completions(made, [0])
    assert completions(made, [1, 2, 3]) == rows[1:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"greedy_rollout_temperature": -0.1}, "must be 0 .greedy. or more, got -0.1"),
        ({"greedy_rollout_temperature": float("nan")}, "must be 0 .greedy. or more, got nan"),
        ({"greedy_rollout_temperature": 0.7, "temperature": 0.7}, "is not below the other rollouts' temperature=0.7"),
    ],
)
def test_temperatures_that_make_no_sense_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        SteeredGRPOConfig(**settings(tmp_path, steering_control="greedy_rollout", **changes))


@pytest.mark.parametrize("changes", [{"do_sample": False}, {"num_beams": 2}])
def test_generation_without_sampling_or_with_beams_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"samples without beam search; this call has .* Change generation_kwargs"):
        Watched(steered(tmp_path, generation_kwargs=changes, **GREEDY)).once()


def test_the_model_generates_as_before_after_the_block_and_other_batches_are_refused() -> None:
    made = model()
    ids = torch.tensor([[3, 4]])
    with (
        row_temperature(made, [True, False], 0.0),
        pytest.raises(ValueError, match="rows has 2 entries, but generate got 1 prompts"),
    ):
        made.generate(input_ids=ids, do_sample=True)
    assert "generate" not in vars(made)
