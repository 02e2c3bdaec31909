"""`steered_stop_after`: a chosen rollout that loops ends there, and nothing else changes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_posttrain.cli.grpo import SoftOverlong
from sae_posttrain.metrics.loops import LoopSettings, find_loop
from sae_posttrain.training.rollouts import SteeredGRPOConfig, steered_rollout_func
from sae_posttrain.training.rollouts.early_stop import loops_ended

from .vllm import as_if_vllm_had_generated
from .world import (
    ALPHA,
    GROUP,
    LENGTH,
    Watched,
    features,
    logged,
    model,
    plain,
    settings,
    steered,
    steered_rloo,
    tokenizer,
    trained,
    weights,
)

LONG = 40
STOP = 10
SHORT = {"max_completion_length": LONG, "steered_stop_after": STOP, "loop_min_tokens": LENGTH}


def lengths(output: dict[str, Tensor]) -> list[int]:
    found: list[int] = output["completion_mask"].sum(dim=1).tolist()
    return found


def rows(output: dict[str, Tensor], chosen: Any) -> list[list[int]]:
    return [output["completion_ids"][row][output["completion_mask"][row].bool()].tolist() for row in chosen]


def test_the_steered_row_ends_in_its_loop_and_the_others_are_unchanged(tmp_path: Path) -> None:
    whole = Watched(steered(tmp_path, **SHORT | {"steered_stop_after": None})).once()
    cut = Watched(steered(tmp_path, **SHORT)).once()
    assert lengths(whole)[0] == LONG
    assert rows(cut, [0])[0] == rows(whole, [0])[0][: lengths(cut)[0]]
    loop = find_loop(rows(cut, [0])[0], LoopSettings(min_tokens=STOP))
    assert loop is not None
    assert loop.length == STOP  # the first token at which it is long enough
    assert rows(cut, range(1, GROUP)) == rows(whole, range(1, GROUP))
    assert int(cut["num_items_in_batch"]) == sum(lengths(cut)) < sum(lengths(whole))


def test_a_padding_token_that_ends_sequences_does_not_look_like_an_end(tmp_path: Path) -> None:
    """`generate` pads the row that was ended. With such a token TRL would take it for one that the model ended."""
    same = tokenizer()
    same.pad_token = same.eos_token
    made = Watched(steered(tmp_path, processing_class=same, mask_truncated_completions=True, **SHORT)).once()
    assert same.eos_token_id not in rows(made, [0])[0]
    assert lengths(made)[0] > 0  # spared overlong filtering


def test_rewards_are_told_and_the_share_is_logged(tmp_path: Path) -> None:
    told: list[tuple[list[bool], list[bool]]] = []

    def reward(completions: list[Any], steered: list[bool], stopped: list[bool], **kwargs: Any) -> list[float]:
        told.append((steered, stopped))
        return [0.5 * number for number in range(len(completions))]

    run = trained(steered(tmp_path, reward_funcs=reward, **SHORT))
    assert told == [([True, False, False, False], [True, False, False, False])]
    assert logged(run, "steering/stopped") == [1.0]
    assert logged(run, "loop_rate/steered") == [1.0]
    assert logged(run, "completions/clipped_ratio")[0] >= 1 / GROUP  # it counts as truncated


def test_soft_overlong_counts_a_stopped_rollout_as_one_of_full_length() -> None:
    ids = [[1] * 12, [1] * 12, [1] * 95]
    penalty = SoftOverlong(100, 20)
    assert penalty(completion_ids=ids, stopped=[True, False, False]) == [-1.0, 0.0, -0.75]
    assert penalty(completion_ids=ids) == [0.0, 0.0, -0.75]


def test_off_is_as_before_bit_for_bit(tmp_path: Path) -> None:
    """Also for a limit that no completion reaches."""
    changes = {"max_steps": 2, "max_completion_length": LENGTH}
    expected = trained(steered(tmp_path, **changes))
    found = trained(steered(tmp_path, steered_stop_after=LENGTH + 1, **changes))
    assert all(torch.equal(a, b) for a, b in zip(weights(expected), weights(found), strict=True))


@pytest.mark.parametrize("control", ["random_direction", "extra_plain", "greedy_rollout"])
def test_controls_end_as_the_features_do(control: str, tmp_path: Path) -> None:
    """One that never loops is never ended."""
    changes = {"steering_control": control, "max_completion_length": LONG, "temperature": 1.3}
    whole = Watched(steered(tmp_path, **changes)).once()
    cut = Watched(steered(tmp_path, steered_stop_after=STOP, **changes)).once()
    loop = find_loop(rows(cut, [0])[0], LoopSettings(min_tokens=STOP))
    assert rows(cut, [0])[0] == rows(whole, [0])[0][: lengths(cut)[0]]
    assert (lengths(cut)[0] < lengths(whole)[0]) == (loop is not None)


def test_in_rloo_in_trls_own_trainer_and_beside_vllm(tmp_path: Path) -> None:
    made = Watched(steered_rloo(tmp_path, **SHORT)).once()
    assert STOP <= lengths(made)[0] < LONG
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # TRL calls rollout_func experimental
        hook = steered_rollout_func(features(), alpha=ALPHA, stop_after=60)
        trainer = plain(tmp_path, rollout_func=hook, max_completion_length=100)
    assert 60 <= lengths(Watched(trainer).once())[0] < 100
    others = [[5, 6, 1], [7, 1], [8, 9, 10, 1], [11, 1]]
    made = as_if_vllm_had_generated(steered(tmp_path, **SHORT), others).once()
    assert STOP <= lengths(made)[0] < LONG
    assert rows(made, range(1, GROUP)) == others[1:]


def test_a_row_that_is_finished_is_not_ended_by_its_padding() -> None:
    made = model()
    eos, batch = made.generation_config.eos_token_id, torch.tensor([[3, 4], [5, 6]])
    with torch.no_grad():
        made.lm_head.weight[eos] = 0.0
    ids = {"input_ids": batch, "do_sample": False, "max_new_tokens": 60, "pad_token_id": 0}
    free = made.generate(**ids)
    # The first row is over at once; the second one goes on.
    finish = lambda prompt, scores: torch.where(  # noqa: E731
        (torch.arange(2) == 0)[:, None] & (torch.arange(scores.shape[1]) == eos), 1e4, scores
    )
    with loops_ended(made, [True, False], LoopSettings(min_tokens=STOP)) as ended:
        found = made.generate(**ids, logits_processor=[finish])
    assert found[0, 2] == eos
    assert torch.equal(found[1], free[1])
    assert ended == {}


def test_a_limit_below_the_smallest_loop_and_another_number_of_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="steered_stop_after=20 is below loop_min_tokens=50"):
        SteeredGRPOConfig(**settings(tmp_path, steered_stop_after=20))
    made = model()
    with (
        loops_ended(made, [True, False], LoopSettings()),
        pytest.raises(ValueError, match="rows has 2 entries, but generate has 1 rows"),
    ):
        made.generate(input_ids=torch.tensor([[3, 4]]), max_new_tokens=2)
    assert "generate" not in vars(made)
