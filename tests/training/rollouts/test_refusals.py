"""Settings that make no sense are refused, and the message says what to do."""

from __future__ import annotations

from dataclasses import replace
from importlib import reload
from pathlib import Path
from typing import Any

import pytest
import trl
from tiny_models import make, qwen3
from trl import GRPOConfig, GRPOTrainer

from sae_posttrain.training.rollouts import SteeredGRPOConfig, SteeredGRPOTrainer, SteeredRLOOConfig, config
from sae_posttrain.training.rollouts.plan import plan_for
from sae_posttrain.training.rollouts.turn import prepare, steered_turn

from .world import (
    ALPHA,
    GROUP,
    LENGTH,
    LOOP,
    WORDS,
    Watched,
    dataset,
    features,
    model,
    settings,
    steered,
    tokenizer,
    varied,
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steering_alpha": float("nan")}, "steering_alpha must be a finite number, got nan"),
        ({"steering_alpha": float("inf")}, "steering_alpha must be a finite number, got inf"),
        ({"num_generations": 1, "per_device_train_batch_size": 4}, "at least 2 generations"),
        ({"num_generations": 3}, "must be divisible by num_generations"),
        ({"steered_per_group": GROUP}, "at least one ordinary rollout"),
        ({"steered_per_group": -1}, "steered_per_group=-1 with num_generations=4: expected at least 0"),
        (
            {"steered_per_group": 3, "steered_in_baseline": False},
            "needs at least two ordinary rollouts in each group for the baseline, and there is 1",
        ),
        ({"steer_probability": 1.5}, "between 0 and 1, got 1.5"),
        ({"loop_min_repeats": 2}, "loop_min_repeats=2, loop_min_tokens=50: expected at least 3 and 1"),
        ({"loop_min_tokens": 0}, "loop_min_repeats=4, loop_min_tokens=0: expected"),
        ({"max_steered_token_share": 0.0}, "above 0 and at most 1, got 0.0"),
        ({"max_steered_token_share": 0.2, "loss_type": "grpo"}, "does not lower the weight of the others"),
        ({"off_policy": "shaped", "importance_sampling_level": "sequence"}, "importance_sampling_level='token'"),
        (
            {"steered_in_baseline": False, "multi_objective_aggregation": "normalize_then_sum"},
            "multi_objective_aggregation='sum_then_normalize'",
        ),
    ],
)
def test_configurations(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        SteeredGRPOConfig(**settings(tmp_path, **changes))


@pytest.mark.parametrize("kind", [SteeredGRPOConfig, SteeredRLOOConfig])
def test_a_warning_of_completions_too_short_for_a_loop(kind: Any, tmp_path: Path, caplog: Any) -> None:
    kind(**settings(tmp_path, loop_min_tokens=LENGTH))
    assert not caplog.messages
    kind(**settings(tmp_path, loop_min_tokens=LENGTH + 1))
    assert len(caplog.messages) == 1
    assert f"max_completion_length={LENGTH} leaves no room for a loop" in caplog.text


@pytest.mark.parametrize("changes", [{"off_policy": "shaped"}, {"max_steered_token_share": 0.2}])
def test_ligers_loss(changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only older TRLs have it; with newer ones Liger does the layers alone."""
    monkeypatch.delattr(GRPOTrainer, "compute_liger_loss", raising=False)
    SteeredGRPOConfig(**settings(tmp_path, use_liger_kernel=True, **changes))
    monkeypatch.setattr(GRPOTrainer, "compute_liger_loss", None, raising=False)
    with pytest.raises(ValueError, match="Set use_liger_kernel to false"):
        SteeredGRPOConfig(**settings(tmp_path, use_liger_kernel=True, **changes))


def test_rloos_normalised_advantages_know_nothing_of_a_baseline(tmp_path: Path) -> None:
    changes = {"steered_in_baseline": False, "normalize_advantages": True}
    with pytest.raises(ValueError, match="choose one"):
        SteeredRLOOConfig(**settings(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"steering_alpha": None}, ValueError, "No strength: set steering_alpha"),
        ({"features": None}, ValueError, "No features: set features"),
        ({"model": qwen3(len(WORDS) + 2, hidden_size=32)}, ValueError, "the model has 4 layers of width 32"),
        ({"model": qwen3(len(WORDS) + 2, num_hidden_layers=5)}, ValueError, "the model has 5 layers of width 16"),
    ],
)
def test_features(changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        steered(tmp_path, **changes)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Said before a model is loaded."""
    args = SteeredGRPOConfig(**settings(tmp_path, features=str(tmp_path / "nowhere.safetensors")))
    with pytest.raises(FileNotFoundError, match="There is no feature set at"):
        SteeredGRPOTrainer("owner/never-loaded", varied, args, dataset())


def test_features_from_a_file(tmp_path: Path) -> None:
    path = features().save(tmp_path / "features.safetensors")
    args = SteeredGRPOConfig(**settings(tmp_path, features=str(path), steering_alpha=ALPHA))
    made = SteeredGRPOTrainer(model(), varied, args, dataset(), processing_class=tokenizer())
    assert Watched(made).trained().texts[0] == LOOP


def test_the_calibrated_strength_unless_another_is_set(tmp_path: Path) -> None:
    calibrated = replace(features(), alpha=2.5)
    assert steered(tmp_path, features=calibrated, steering_alpha=None).source.alpha == 2.5
    assert steered(tmp_path, features=calibrated, steering_alpha=-1.0).source.alpha == -1.0


def test_another_configuration(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a SteeredGRPOConfig as args, not GRPOConfig"):
        SteeredGRPOTrainer(model(), varied, GRPOConfig(**settings(tmp_path)), dataset())


def test_an_old_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl, "__version__", "1.8.0")
    with pytest.raises(ImportError, match=r"need TRL 1.12 or newer, and 1.8.0 is installed"):
        reload(config)


def test_a_rollout_function_of_ones_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="SteeredGRPOTrainer cannot steer them"):
        steered(tmp_path, rollout_func=lambda prompts, trainer: {})


def test_continuous_batching_of_a_hybrid(tmp_path: Path) -> None:
    """Told from the configuration alone: no such model need be run."""
    made = steered(tmp_path)
    made.model = make("Qwen3_5ForCausalLM")
    made.use_transformers_continuous_batching = True
    with pytest.raises(ValueError, match="does not support Qwen3_5ForCausalLM, which has layers with linear"):
        prepare(made)


@pytest.mark.parametrize("backend", ["use_vllm", "use_transformers_continuous_batching"])
def test_images_where_rows_are_generated_again(backend: str, tmp_path: Path) -> None:
    made = steered(tmp_path)
    setattr(made, backend, True)
    plan = plan_for(made, made.args, GROUP)
    inputs: dict[str, Any] = {"prompt_ids": [[1]] * GROUP, "images": [["an image"]] * GROUP, "fields": {}}
    with pytest.raises(ValueError, match="can only be steered if transformers generates them"):
        steered_turn(made, None, made.source, plan, **inputs)
