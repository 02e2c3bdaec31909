"""Real steps on a tiny Qwen3: what is steered, what is left as it was, and what is logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas
import pytest
import torch

from .world import (
    ALPHA,
    GROUP,
    LENGTH,
    LOOP,
    Watched,
    dataset,
    experts,
    logged,
    lora,
    plain,
    rloo,
    steered,
    steered_rloo,
    trained,
    varied,
    weights,
)

FIRST_OF_EACH = [True, False, False, False]
OFF_POLICY = [
    "on_policy",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("truncated_is", "shaped")),
]
LOSSES = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo"]


def test_without_steered_rollouts_it_is_plain_grpo_bit_for_bit(tmp_path: Path) -> None:
    settings = {"max_steps": 3, "gradient_accumulation_steps": 2, "mask_truncated_completions": True}
    expected = trained(plain(tmp_path, **settings))
    found = trained(steered(tmp_path, steered_per_group=0, **settings))
    assert all(torch.equal(a, b) for a, b in zip(weights(expected), weights(found), strict=True))
    assert logged(found, "loss") == logged(expected, "loss") != [0.0] * 3


def test_one_row_of_each_group_loops_and_the_others_are_as_without_steering(tmp_path: Path) -> None:
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    ordinary = Watched(plain(tmp_path, **settings)).trained()
    found = Watched(steered(tmp_path, **settings)).trained()
    assert [text == LOOP for text in found.texts] == FIRST_OF_EACH * 2
    assert [row for row in range(8) if found.texts[row] != ordinary.texts[row]] == [0, GROUP]
    assert found.generated[0]["steered_tokens"].tolist() == [LENGTH, 0, 0, 0] * 2


def test_two_of_five_rows(tmp_path: Path) -> None:
    found = Watched(steered(tmp_path, num_generations=5, per_device_train_batch_size=10, steered_per_group=2)).trained()
    assert [text == LOOP for text in found.texts] == [True, True, False, False, False] * 2


def test_the_mark_stays_with_its_row_through_shuffling_splitting_and_iterations(tmp_path: Path) -> None:
    """Two passes over two micro-batches: each time a row is marked exactly if it is the loop."""
    made = steered(
        tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2, num_iterations=2, max_steps=2
    )
    seen, compute = [], made._compute_loss

    def watching(model: Any, inputs: Any) -> Any:
        texts = made.processing_class.batch_decode(inputs["completion_ids"])
        assert [text == LOOP for text in texts] == (inputs["steered_tokens"] > 0).tolist()
        seen.append(texts.count(LOOP))
        return compute(model, inputs)

    made._compute_loss = watching
    made.train()
    assert len(seen) == 4
    assert sum(seen) == 4, "one loop in each of two groups, in each of two passes"
    assert logged(made, "clip_ratio/region_mean")[1] > 0, "the second pass is off policy"


def test_lora(tmp_path: Path) -> None:
    found = Watched(steered(tmp_path, peft_config=lora(), max_steps=2)).trained()
    assert [text == LOOP for text in found.texts] == FIRST_OF_EACH * 2
    adapters = {name: value for name, value in found.trainer.model.named_parameters() if "lora_B" in name}
    assert adapters
    assert all(value.abs().sum() > 0 for value in adapters.values())


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    settings = {"off_policy": "truncated_is", "steering_alpha": 1.5, "max_steps": 2}
    expected = trained(steered(tmp_path, **settings))
    found = trained(steered(tmp_path, gradient_checkpointing=True, **settings))
    for a, b in zip(weights(found), weights(expected), strict=True):
        torch.testing.assert_close(a, b)


def test_a_mixture_of_experts(tmp_path: Path) -> None:
    """Rows share experts, so logits may differ in the last digits; tokens do not."""
    ordinary = Watched(plain(tmp_path, model=experts())).trained()
    found = Watched(steered(tmp_path, model=experts())).trained()
    assert [text == LOOP for text in found.texts] == FIRST_OF_EACH
    assert found.texts[1:] == ordinary.texts[1:]


@pytest.mark.parametrize("off_policy", OFF_POLICY)
@pytest.mark.parametrize("loss_type", LOSSES)
def test_every_loss_learns_from_the_steered_row(loss_type: str, off_policy: str, tmp_path: Path) -> None:
    settings = {"loss_type": loss_type, "off_policy": off_policy, "mask_truncated_completions": True}
    found = Watched(steered(tmp_path, steering_alpha=1.5, **settings)).trained()
    assert found.gradient([0]).abs().max() > 1e-4
    assert found.gradient(range(GROUP)).isfinite().all()


def test_evaluation_is_never_steered(tmp_path: Path) -> None:
    made = steered(tmp_path, eval_dataset=dataset(2), per_device_eval_batch_size=GROUP)
    found = Watched(made)
    metrics = made.evaluate()
    assert not any(text == LOOP for text in found.texts)
    assert all("steered_tokens" not in output for output in found.generated)
    assert metrics["eval_loop_rate/ordinary"] == 0.0
    assert not any("steer" in name for name in metrics)


def test_training_goes_on_steered_after_an_evaluation(tmp_path: Path) -> None:
    settings = {"eval_dataset": dataset(2), "per_device_eval_batch_size": GROUP, "eval_strategy": "steps"}
    found = Watched(steered(tmp_path, max_steps=2, eval_steps=1, log_completions=True, **settings)).trained()
    assert [text == LOOP for text in found.texts] == (FIRST_OF_EACH + [False] * 8) * 2


def test_what_is_logged(tmp_path: Path) -> None:
    made = steered(tmp_path, log_completions=True)
    found = Watched(made).trained()
    (log, *_) = made.state.log_history
    rewards = torch.tensor(varied(found.texts))
    tokens = found.generated[0]["completion_mask"].sum().item()
    assert log["loop_rate/steered"] == 1.0
    assert log["loop_rate/ordinary"] == 0.0
    assert log["steering/reward"] == rewards[0] == 1.0 - LENGTH
    assert log["steering/advantage"] == pytest.approx(((rewards[0] - rewards.mean()) / (rewards.std() + 1e-4)).item())
    assert log["steering/token_share"] == pytest.approx(LENGTH / tokens)
    table = pandas.read_parquet(tmp_path / "completions" / "completions_00001.parquet")
    assert table["steered"].tolist() == FIRST_OF_EACH
    assert (table["completion"] == LOOP).tolist() == FIRST_OF_EACH


def test_a_steered_rollout_that_does_not_loop_stays_and_is_counted(tmp_path: Path) -> None:
    found = Watched(steered(tmp_path, steering_alpha=0.0)).trained()
    assert found.texts == Watched(plain(tmp_path)).trained().texts
    assert logged(found.trainer, "loop_rate/steered") == [0.0]
    assert found.generated[0]["completion_mask"][0].any()
    assert found.gradient([0]).abs().max() > 0


def test_rewards_are_told_which_rows_are_steered(tmp_path: Path) -> None:
    def marked(completions: list[str], steered: list[bool], **kwargs: Any) -> list[float]:
        told.append(steered)
        return [float(flag) for flag in steered]

    told: list[list[bool]] = []
    trained(steered(tmp_path, reward_funcs=marked))
    assert told == [FIRST_OF_EACH]


def test_steering_starts_after_a_step(tmp_path: Path) -> None:
    found = Watched(steered(tmp_path, steer_after_step=1, max_steps=2)).trained()
    assert [text == LOOP for text in found.texts] == [False] * GROUP + FIRST_OF_EACH


def test_some_groups_are_steered_and_training_draws_the_same_numbers(tmp_path: Path) -> None:
    settings = {"per_device_train_batch_size": 8 * GROUP, "train_dataset": dataset(8)}
    found = Watched(steered(tmp_path, steer_probability=0.5, **settings)).trained()
    loops = [text == LOOP for text in found.texts]
    assert 0 < sum(loops) < 8
    assert not any(loop and row % GROUP for row, loop in enumerate(loops))
    ordinary = Watched(plain(tmp_path, **settings)).trained()
    assert [a for a, loop in zip(found.texts, loops, strict=True) if not loop] == [
        b for b, loop in zip(ordinary.texts, loops, strict=True) if not loop
    ]


def test_the_control_of_a_random_direction_is_as_long_and_the_same_everywhere(tmp_path: Path) -> None:
    made, again = (steered(tmp_path, steering_control="random_direction") for _ in range(2))
    ((layer, drawn_D),) = made.source.directions.items()
    ((_, meant_D),) = steered(tmp_path).source.directions.items()
    assert drawn_D.norm() == pytest.approx(meant_D.norm().item())
    assert abs(torch.cosine_similarity(drawn_D, meant_D, dim=0)) < 0.9
    assert torch.equal(again.source.directions[layer], drawn_D)
    assert made.source.alpha == ALPHA
    found = Watched(made).trained()
    ordinary = Watched(plain(tmp_path)).trained()
    assert [a == b for a, b in zip(found.texts, ordinary.texts, strict=True)] == [False, True, True, True]


def test_the_control_of_an_extra_plain_rollout_is_not_steered_but_marked(tmp_path: Path) -> None:
    found = Watched(steered(tmp_path, steering_control="extra_plain", features=None, steering_alpha=None)).trained()
    ordinary = Watched(plain(tmp_path)).trained()
    assert found.texts == ordinary.texts
    assert (found.generated[0]["steered_tokens"] > 0).tolist() == FIRST_OF_EACH


def test_rloo(tmp_path: Path) -> None:
    found = Watched(steered_rloo(tmp_path, per_device_train_batch_size=2 * GROUP))
    ordinary = Watched(rloo(tmp_path, per_device_train_batch_size=2 * GROUP))
    ordinary.once()
    found.once()
    assert [text == LOOP for text in found.texts] == FIRST_OF_EACH * 2
    assert [row for row in range(8) if found.texts[row] != ordinary.texts[row]] == [0, GROUP]
    assert found.gradient([0]).abs().max() > 0
    found.trained()
    assert logged(found.trainer, "loop_rate/steered") == [1.0]


def test_without_steered_rollouts_it_is_plain_rloo_bit_for_bit(tmp_path: Path) -> None:
    settings = {"max_steps": 3, "mask_truncated_completions": True}
    expected = trained(rloo(tmp_path, **settings))
    found = trained(steered_rloo(tmp_path, steered_per_group=0, **settings))
    assert all(torch.equal(a, b) for a, b in zip(weights(expected), weights(found), strict=True))
