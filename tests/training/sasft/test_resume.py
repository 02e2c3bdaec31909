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

from .killed_run import make_trainer
from .routes import plain, with_callback, with_trainer
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


@pytest.mark.parametrize(("route", "refresh"), [(with_callback, 0), (with_trainer, 0), (with_trainer, 2)])
def test_a_killed_run_resumes_exactly(
    route: Route, refresh: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_posttrain.training.sasft.refresh.MIN_TOKENS", 1)
    settings = {"refresh_baselines": refresh}
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


@both_routes
def test_another_feature_file_is_refused(route: Route, world: World) -> None:
    world.run(route, **SAVED).train()
    layer = world.features.layers[0]
    changed = replace(world.features, layers=(replace(layer, bias=layer.bias + 1e-3), *world.features.layers[1:]))
    with pytest.raises(ValueError, match=r"sha256 \w{12}…, and this run's has \w{12}…"):
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


def test_a_checkpoint_without_sasft_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.run(plain, **SAVED).train()
    with caplog.at_level(logging.WARNING):
        world.run(with_callback, **{**SAVED, "max_steps": 3}).train(resume_from_checkpoint=True)
    assert "The checkpoint was trained without SASFT; from step 2 on it has it." in caplog.messages


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


class TestRefreshedBaselines:
    @pytest.mark.parametrize(
        "saved",
        [
            {"save_strategy": "steps", "save_steps": 1},
            {"save_strategy": "epoch"},
            {"save_strategy": "best", "metric_for_best_model": "eval_loss", "eval_strategy": "epoch"},
        ],
        ids=lambda saved: saved["save_strategy"],
    )
    def test_are_in_every_checkpoint(self, saved: dict[str, Any], world: World) -> None:
        settings = {"max_steps": 2, "learning_rate": 1e-3, "eval_dataset": world.dataset, **saved}
        world.run(with_callback, refresh_baselines=1, **settings).train()
        for step in (1, 2):
            refresh = sasft_record(world, step)["refresh"]
            assert refresh["step"] == step
            assert set(refresh["baselines"]["1"]) >= {"en", "ru", "zh"}

    def test_a_checkpoint_saved_too_late_for_them_is_told(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        class SavesLate(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                control.should_save = True

        trainer = world.run(with_callback, refresh_baselines=1)
        trainer.add_callback(SavesLate())
        trainer.train()
        with caplog.at_level(logging.WARNING):
            world.run(with_callback, refresh_baselines=1, max_steps=2).train(resume_from_checkpoint=True)
        assert any("of step 1 has the refreshed baselines of step 0" in message for message in caplog.messages)

    def test_of_other_languages_are_left_alone(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sae_posttrain.training.sasft.refresh.MIN_TOKENS", 1)
        world.run(with_callback, refresh_baselines=1, **SAVED).train()
        resumed = world.run(with_callback, suppress=("zh", "ru"), refresh_baselines=100, **{**SAVED, "max_steps": 3})
        start = [penalty.baseline_LF for penalty in resumed.sasft.penalties]
        resumed.train(resume_from_checkpoint=True)
        for penalty, baseline_LF in zip(resumed.sasft.penalties, start, strict=True):
            assert torch.equal(penalty.baseline_LF, baseline_LF)
