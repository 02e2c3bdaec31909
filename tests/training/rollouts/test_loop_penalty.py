"""`LoopPenalty` inside real trainers: what they tell it of how completions ended, and that `measure` would agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sae_posttrain.metrics import LoopSettings, find_repetition, repetition_rate
from sae_posttrain.metrics.loops import looped_share
from sae_posttrain.training.rewards import CodeSwitchingPenalty, LoopPenalty

from . import world

SHORT = LoopSettings(min_repeats=3, min_length=20, min_tokens=5)
END = 1


class Recorded(LoopPenalty):
    """Keeps what the trainer gave and what was made of it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(loop_settings=SHORT, **settings)
        self.calls: list[tuple[list[str], list[list[int]], list[float]]] = []

    def __call__(self, prompts: Any, completions: Any, completion_ids: Any = None, **kwargs: Any) -> list[float]:
        found = super().__call__(prompts, completions, completion_ids, **kwargs)
        self.calls.append((list(completions), [list(ids) for ids in completion_ids], found))
        return found


@pytest.mark.parametrize("make", [world.steered, world.steered_rloo])
def test_a_loop_that_ran_to_the_limit_costs_and_one_that_ended_does_not(make: Any, tmp_path: Path) -> None:
    penalty = Recorded()
    trainer = make(tmp_path, max_steps=4, learning_rate=0.0, reward_funcs=[world.varied, penalty])
    trainer.train()
    rows = [row for call in penalty.calls for row in zip(*call, strict=True)]
    assert {ids[-1] == END for _, ids, _ in rows} == {True, False}, "some ended, some were cut"
    for text, ids, reward in rows:
        report = repetition_rate([text], SHORT, ended=[ids[-1] == END])
        assert reward == -report.loops.hits
    assert sum(reward for _, _, reward in rows) <= -4, "each steered one"


def test_graded_rewards_train(tmp_path: Path) -> None:
    penalty, switches = Recorded(graded=True), CodeSwitchingPenalty(graded=True, language="en")
    trainer = world.steered(tmp_path, max_steps=2, learning_rate=0.0, reward_funcs=[world.varied, penalty, switches])
    trainer.train()
    rows = [row for call in penalty.calls for row in zip(*call, strict=True)]
    for text, ids, reward in rows:
        assert reward == -looped_share(text, SHORT, ended=ids[-1] == END)
    assert min(reward for _, _, reward in rows) < -0.5, "the steered ones"
    logged = [log["rewards/code_switching_penalty/mean"] for log in trainer.state.log_history if "reward" in log]
    assert len(logged) == 2
    assert all(-1.0 <= mean <= 0.0 for mean in logged)


def test_the_same_loop_with_an_end_costs_nothing(tmp_path: Path) -> None:
    penalty, told = Recorded(), {}

    def spy(prompts: Any, completions: Any, completion_ids: Any, **kwargs: Any) -> list[float]:
        told.update(kwargs)
        return [0.0] * len(prompts)

    world.plain(tmp_path, reward_funcs=[spy]).train()
    ids = [[4] * 8, [4] * 7 + [END]]
    assert penalty(["a"] * 2, [world.LOOP] * 2, ids, **told) == [-1.0, 0.0]
    assert penalty(["a"] * 2, [world.LOOP] * 2, ids) == [-1.0, -1.0], "without a trainer nothing is known"
    assert find_repetition(world.LOOP, SHORT, ended=True).kind is None
