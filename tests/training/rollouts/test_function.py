"""`steered_rollout_func` in TRL's own, unmodified trainer."""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pandas
import pytest
from trl import GRPOTrainer

from sae_posttrain.training.rollouts import steered_rollout_func

from .world import ALPHA, GROUP, LOOP, Watched, dataset, features, plain, steered

FIRST_OF_EACH = [True, False, False, False]
pytestmark = pytest.mark.filterwarnings("ignore:You are using 'rollout_func'")


def with_function(folder: Path, changes: dict[str, Any] | None = None, **settings: Any) -> Watched:
    function = steered_rollout_func(features(), **{"alpha": ALPHA, **settings})
    return Watched(plain(folder, rollout_func=function, **(changes or {})))


def test_it_makes_the_rollouts_of_the_trainer_of_ours(tmp_path: Path) -> None:
    settings = {"max_steps": 2, "per_device_train_batch_size": 2 * GROUP}
    found = with_function(tmp_path, settings).trained()
    assert found.texts == Watched(steered(tmp_path, **settings)).trained().texts
    assert [text == LOOP for text in found.texts] == FIRST_OF_EACH * 4
    assert found.gradient([0]).abs().max() > 0


def test_rewards_and_the_table_are_told(tmp_path: Path) -> None:
    def marked(completions: list[str], steered: list[bool], **kwargs: Any) -> list[float]:
        return [-float(flag) for flag in steered]

    found = with_function(tmp_path, {"log_completions": True, "reward_funcs": marked}).trained()
    assert (found.generated[0]["advantages"] < 0).tolist() == FIRST_OF_EACH
    table = pandas.read_parquet(tmp_path / "completions" / "completions_00001.parquet")
    assert table["steered"].tolist() == FIRST_OF_EACH


def test_evaluation_is_not_steered(tmp_path: Path) -> None:
    found = with_function(tmp_path, {"eval_dataset": dataset(2), "per_device_eval_batch_size": GROUP})
    found.trainer.evaluate()
    assert LOOP not in found.texts


@pytest.mark.parametrize(
    "settings",
    [{"steered_per_group": 0}, {"control": "extra_plain"}, {"steer_after_step": 1}, {"steer_probability": 0.0}],
)
def test_ways_not_to_steer(settings: dict[str, Any], tmp_path: Path) -> None:
    assert with_function(tmp_path, **settings).trained().texts == Watched(plain(tmp_path)).trained().texts


def test_it_reaches_a_spawned_worker(tmp_path: Path) -> None:
    path = features().save(tmp_path / "features.safetensors")
    function = ForkingPickler.loads(ForkingPickler.dumps(steered_rollout_func(path, alpha=ALPHA)))
    found = Watched(plain(tmp_path, rollout_func=function)).trained()
    assert found.texts[0] == LOOP


def test_a_turn_of_an_older_trl_is_not_told_of_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until TRL 1.12 the parameter after the prompts was another, `has_tool_images`."""

    def turn(self: Any, prompt_ids: Any, images: Any, multimodal_fields: Any, has_tool_images: bool = False) -> Any:
        told.append(has_tool_images)
        return [[4, 5, 1]] * len(prompt_ids), None

    told: list[bool] = []
    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", turn)
    with_function(tmp_path, control="extra_plain").once()
    assert told == [False]


@pytest.mark.parametrize("training", [True, False])
def test_a_turn_is_told_of_the_groups(training: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def turn(self: Any, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int) -> Any:
        told.append(num_generations)
        return [[4, 5, 1]] * len(prompt_ids), None

    told: list[int] = []
    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", turn)
    changes = {"num_generations_eval": 2, "eval_dataset": dataset(2), "per_device_eval_batch_size": 4}
    found = with_function(tmp_path, changes, control="extra_plain")
    found.once() if training else found.trainer.evaluate()
    assert told == [GROUP if training else 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_truncated_completions": True}, "mask_truncated_completions would cancel the steered rollout"),
        ({"off_policy_mask_threshold": 0.1}, "off_policy_mask_threshold would cancel"),
        ({"num_generations": 2}, "steered_per_group=2 with num_generations=2"),
    ],
)
def test_what_it_cannot_spare_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        with_function(tmp_path, changes, steered_per_group=2).trained()
