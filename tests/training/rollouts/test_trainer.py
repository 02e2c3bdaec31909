"""Real steps of GRPO on a tiny Qwen3: what is steered, and what is left as it was."""

from __future__ import annotations

from pathlib import Path

import torch

from .world import GROUP, LENGTH, LOOPING, Watched, plain, steered, trained, weights

LOOP = " ".join([LOOPING] * LENGTH)


def test_without_steered_rollouts_it_is_plain_grpo_bit_for_bit(tmp_path: Path) -> None:
    settings = {"max_steps": 3, "gradient_accumulation_steps": 2, "mask_truncated_completions": True}
    expected = trained(plain(tmp_path, **settings))
    found = trained(steered(tmp_path, steered_per_group=0, **settings))
    assert all(torch.equal(a, b) for a, b in zip(weights(expected), weights(found), strict=True))
    assert [log.get("loss") for log in found.state.log_history] == [
        log.get("loss") for log in expected.state.log_history
    ]


def test_exactly_one_row_of_each_group_loops_and_the_others_are_as_without_steering(tmp_path: Path) -> None:
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    ordinary = Watched(plain(tmp_path, **settings)).trained()
    found = Watched(steered(tmp_path, **settings)).trained()
    assert [text == LOOP for text in found.texts] == [True, False, False, False] * 2
    assert [found.texts[row] for row in range(8) if row % GROUP] == [
        ordinary.texts[row] for row in range(8) if row % GROUP
    ]
    assert found.generated[0]["steered_tokens"].tolist() == [LENGTH, 0, 0, 0] * 2
