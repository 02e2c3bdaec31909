"""Which rows are steered, as every process works it out."""

from __future__ import annotations

import random

import pytest
import torch

from sae_posttrain.training.rollouts.plan import RolloutPlan, steered_rows


@pytest.mark.parametrize(
    ("processes", "size", "group"), [(1, 8, 4), (2, 4, 4), (4, 2, 4), (2, 6, 4), (3, 5, 3), (8, 1, 8)]
)
def test_processes_agree_on_one_row_of_each_group_however_groups_are_split(
    processes: int, size: int, group: int
) -> None:
    everywhere = steered_rows(processes * size, group, 1)
    parts = [RolloutPlan(everywhere, process, size).here for process in range(processes)]
    together = [steered for part in parts for steered in part]
    groups = [together[start : start + group] for start in range(0, len(together), group)]
    assert all(sum(rows) == 1 for rows in groups)


def test_none_and_several() -> None:
    assert steered_rows(6, 3, 0) == (False,) * 6
    assert steered_rows(6, 3, 2) == (True, True, False) * 2
    assert not RolloutPlan(steered_rows(6, 3, 0), 0, 3)


def test_a_share_of_the_groups_by_seed_and_place_alone() -> None:
    before = torch.random.get_rng_state(), random.getstate()
    drawn = steered_rows(4000, 4, 1, 0.3, "seed 1")
    assert 0.26 < sum(drawn) / 1000 < 0.34
    assert drawn == steered_rows(4000, 4, 1, 0.3, "seed 1") != steered_rows(4000, 4, 1, 0.3, "seed 2")
    assert drawn[:400] == steered_rows(400, 4, 1, 0.3, "seed 1")
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert sum(steered_rows(400, 4, 1, 0.0)) == 0
    assert sum(steered_rows(400, 4, 1, 1.0)) == 100


def test_processes_with_fewer_steered_rows_are_filled_up_where_they_have_to_keep_step() -> None:
    everywhere = (True, False, True, False, False, False, False, True)
    assert [RolloutPlan(everywhere, process, 4).rows() for process in range(2)] == [[0, 2], [3]]
    assert [RolloutPlan(everywhere, process, 4).rows(as_many_everywhere=True) for process in range(2)] == [
        [0, 2],
        [3, 0],
    ]
