"""A run that is cut off and resumed goes on as if nothing had happened, or says why it cannot."""

import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback
from trl import SFTTrainer

from sae_posttrain.training.sasft.segments import CODES

from .killed_run import make_trainer
from .routes import penalties, plain, with_callback, with_trainer
from .world import Route, World

TESTS = Path(__file__).parents[2]
SAVED = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
both_routes = pytest.mark.parametrize("route", [with_callback, with_trainer])


def sasft_record(world: World, step: int) -> dict[str, Any]:
    """What the checkpoint of a step says of SASFT."""
    state = json.loads((world.folder / f"checkpoint-{step}" / "trainer_state.json").read_text(encoding="utf-8"))
    return state["stateful_callbacks"]["SASFT"]


def curve(trainer: SFTTrainer) -> list[dict[str, float]]:
    """Every number that is logged at a step, except those about time."""
    kept = ("step", "loss", "grad_norm")
    return [
        {name: value for name, value in log.items() if name in kept or name.startswith("sasft")}
        for log in trainer.state.log_history
        if "loss" in log
    ]


@pytest.mark.parametrize(("route", "refresh", "weight"), [(with_callback, 0, "auto"), (with_trainer, 2, 0.5)])
def test_a_killed_run_resumes_exactly(
    route: Route, refresh: int, weight: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_posttrain.training.sasft.refresh.MIN_TOKENS", 1)
    monkeypatch.setattr("sae_posttrain.training.sasft.weight.FEWEST", 2)
    settings = {"refresh_baselines": refresh, "weight": weight}
    whole = make_trainer(tmp_path / "whole", route.__name__, **settings)
    whole.train()
    command = [sys.executable, "-m", "training.sasft.killed_run", str(tmp_path / "cut"), route.__name__]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    done = subprocess.run([*command, json.dumps(settings)], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in (tmp_path / "cut").glob("checkpoint-*")] == ["checkpoint-3"]
    resumed = make_trainer(tmp_path / "cut", route.__name__, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert len(curve(resumed)) == 8
    assert curve(resumed) == curve(whole)
    assert any("sasft_drift_layer_1" in log for log in curve(whole)) == bool(refresh)
    weights = [log["sasft_weight"] for log in curve(whole) if "sasft_weight" in log]
    assert bool(weights) == (weight == "auto")
    assert len(set(weights[3:])) == len(weights[3:]), "it changes in every step that the resumed run takes"


class SaveAtThree(TrainerCallback):
    """A user's callback, which runs after SASFT's."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save = state.global_step == 3


@pytest.mark.parametrize(
    ("settings", "callbacks"),
    [
        ({"save_strategy": "best", "metric_for_best_model": "loss", "eval_strategy": "steps", "eval_steps": 3}, []),
        ({"save_strategy": "epoch"}, []),
        ({}, [SaveAtThree()]),
    ],
    ids=["best", "epoch", "another callback"],
)
@both_routes
def test_whoever_saves_the_refreshed_baselines_go_along(
    route: Route,
    settings: dict[str, Any],
    callbacks: list[TrainerCallback],
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sae_posttrain.training.sasft.refresh.MIN_TOKENS", 1)
    few: dict[str, Any] = {"optim": "adamw_torch", "learning_rate": 1e-2, "max_steps": 5, "refresh_baselines": 2}
    whole, resumed = (world.run(route, eval_dataset=world.dataset, **few, **settings) for _ in range(2))
    for callback in callbacks:
        whole.add_callback(callback)
    whole.train()
    resumed.train(resume_from_checkpoint=str(world.folder / "checkpoint-3"))
    assert curve(resumed) == curve(whole)


def test_a_checkpoint_that_comes_before_the_refresh_has_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As transformers' own callback for SIGTERM saves: at once, and before SASFT's turn."""
    monkeypatch.setattr("sae_posttrain.training.sasft.refresh.MIN_TOKENS", 1)
    trainer = world.run(with_callback, refresh_baselines=1)

    class SaveAtOnce(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            trainer._save_checkpoint(trainer.model, None)

    trainer.callback_handler.callbacks.insert(0, SaveAtOnce())
    trainer.train()
    state = json.loads((world.folder / "checkpoint-1" / "trainer_state.json").read_text(encoding="utf-8"))
    for penalty in penalties(trainer):
        saved = state["stateful_callbacks"]["SASFT"]["refresh"]["baselines"][str(penalty.layer)]["en"]
        assert saved == penalty.baseline_LF[CODES.index("en")].tolist()


def test_a_checkpoint_inside_a_step_counts_its_batches_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As transformers' callback for SIGTERM may save, too: whoever resumes takes the whole step again."""
    monkeypatch.setattr("sae_posttrain.training.sasft.refresh.MIN_TOKENS", 1)
    few: dict[str, Any] = {"optim": "adamw_torch", "learning_rate": 1e-2, "max_steps": 5, "refresh_baselines": 2}
    whole, resumed = (world.run(with_callback, weight="auto", **few) for _ in range(2))

    class SaveInside(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                whole._save_checkpoint(whole.model, None)

    whole.add_callback(SaveInside())
    whole.train()
    resumed.train(resume_from_checkpoint=str(world.folder / "checkpoint-3"))
    assert curve(resumed) == curve(whole)


def test_a_weight_that_was_fixed_and_is_to_be_found_starts_anew(world: World) -> None:
    world.run(with_callback, weight=0.5, **SAVED).train()
    resumed = world.run(with_callback, weight="auto", **{**SAVED, "max_steps": 6})
    resumed.train(resume_from_checkpoint=True)
    weights = [log.get("sasft_weight") for log in curve(resumed)]
    assert weights[:5] == [None, None, 0.0, 0.0, 0.0]
    assert weights[5] > 0


@both_routes
def test_another_feature_file_is_refused(route: Route, world: World) -> None:
    world.run(route, **SAVED).train()
    layer = world.features.layers[0]
    changed = replace(world.features, layers=(replace(layer, bias=layer.bias + 1e-3), *world.features.layers[1:]))
    with pytest.raises(ValueError, match=r"sha256 \w{12}…; this run's has \w{12}…"):
        world.run(route, features=changed, **SAVED).train(resume_from_checkpoint=True)


def test_the_checkpoint_names_what_it_was_trained_with(world: World) -> None:
    world.run(with_callback, **SAVED).train()
    assert sasft_record(world, 1) == {
        "features_sha256": world.features.sha256,
        "suppress": ["zh"],
        "weight": 1.0,
        "baseline": "mean",
        "scale": "raw",
        "refresh_baselines": 0,
    }


def test_a_changed_setting_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.run(with_callback, **SAVED).train()
    with caplog.at_level(logging.WARNING):
        world.run(with_callback, weight=0.5, **{**SAVED, "max_steps": 3}).train(resume_from_checkpoint=True)
    assert "SASFT's weight was 1.0 in the checkpoint and is 0.5 now." in caplog.messages


def test_a_changed_budget_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.run(with_callback, weight="auto", loss_budget=0.02, **{**SAVED, "max_steps": 4}).train()
    assert sasft_record(world, 4)["loss_budget"] == 0.02
    found = sasft_record(world, 4)["auto"]["features"]["weight"]
    resumed = world.run(with_callback, weight="auto", **{**SAVED, "max_steps": 5})
    resumed.train(resume_from_checkpoint=True)
    assert "SASFT's loss_budget was 0.02 in the checkpoint and is 0.01 now." in caplog.messages
    assert curve(resumed)[4]["sasft_weight"] == found > 0, "it goes on from what was found"


class HalveTheWeight(TrainerCallback):
    """A controller of the weight, which acts after each optimizer step."""

    def __init__(self, trainer: Any) -> None:
        self.term = trainer.sasft.terms["features"]

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.term.weight /= 2


@both_routes
def test_a_weight_that_changed_during_the_run_is_resumed(route: Route, world: World) -> None:
    settings: dict[str, Any] = {"optim": "adamw_torch", "learning_rate": 1e-2, "max_steps": 4}
    whole, resumed = (world.run(route, **settings, save_strategy="steps", save_steps=2) for _ in range(2))
    for trainer in (whole, resumed):
        trainer.add_callback(HalveTheWeight(trainer))
    whole.train()
    assert sasft_record(world, 2)["weights"] == {"features": 0.25}
    assert sasft_record(world, 2)["weight"] == 1.0
    resumed.train(resume_from_checkpoint=str(world.folder / "checkpoint-2"))
    assert curve(resumed) == curve(whole)
    assert resumed.sasft.terms["features"].weight == 1 / 16


def test_a_weight_that_the_user_changed_is_not_resumed(world: World) -> None:
    saved = world.run(with_callback, **SAVED)
    saved.add_callback(HalveTheWeight(saved))
    saved.train()
    again = world.run(with_callback, weight=0.3, **{**SAVED, "max_steps": 3})
    again.train(resume_from_checkpoint=True)
    assert again.sasft.terms["features"].weight == 0.3


def test_refreshed_baselines_of_another_language_are_left_behind(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sae_posttrain.training.sasft.refresh.MIN_TOKENS", 1)
    # One feature each, so that the baselines of one language would fit the other.
    layers = tuple(replace(one, targets=("zh", "ko", "ru")) for one in world.features.layers)
    features = replace(world.features, layers=layers)
    world.run(with_callback, features=features, refresh_baselines=2, **SAVED).train()
    settings: dict[str, Any] = {**SAVED, "max_steps": 3, "refresh_baselines": 5}
    resumed = world.run(with_callback, features=features, suppress=("ru",), **settings)
    resumed.train(resume_from_checkpoint=True)
    assert "SASFT's suppress was ['zh'] in the checkpoint and is ['ru'] now." in caplog.messages
    for penalty, layer in zip(penalties(resumed), layers, strict=True):
        for code, baseline_F in layer.baselines.items():
            assert torch.equal(penalty.baseline_LF[CODES.index(code)], baseline_F[2:])


def test_a_checkpoint_without_sasft_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.run(plain, **SAVED).train()
    with caplog.at_level(logging.WARNING):
        world.run(with_callback, **{**SAVED, "max_steps": 3}).train(resume_from_checkpoint=True)
    assert "The checkpoint was trained without SASFT. From step 2 on, the run uses SASFT." in caplog.messages


def test_the_routes_resume_each_other(world: World) -> None:
    world.run(with_callback, **SAVED).train()
    resumed = world.run(with_trainer, **{**SAVED, "max_steps": 3})
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 3


def test_a_checkpoint_restores_callbacks_beside_ours(world: World) -> None:
    settings: dict[str, Any] = {**SAVED, "restore_callback_states_from_checkpoint": True}
    world.run(with_callback, **settings).train()
    resumed = world.run(with_callback, **{**settings, "max_steps": 3})
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.log_history[-2]["sasft_loss"] > 0
