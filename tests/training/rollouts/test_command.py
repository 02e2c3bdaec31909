"""`sae-posttrain grpo` from a YAML file: full and LoRA, its rewards and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM

from sae_posttrain.cli import main

from .world import ALPHA, dataset, features, model, settings, tokenizer

REWARDS = "def words(completions, **kwargs):\n    return [float(len(set(text.split()))) for text in completions]\n"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of a two-step run on files in a folder of their own, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    model().save_pretrained(tmp_path / "tiny")
    tokenizer().save_pretrained(tmp_path / "tiny")
    lines = "".join(json.dumps({**row, "language": "en"}) + "\n" for row in dataset())
    (tmp_path / "prompts.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "rewards_of_mine.py").write_text(REWARDS, encoding="utf-8")
    return {
        **settings(tmp_path / "out", max_steps=2, save_strategy="steps", save_steps=2),
        "model_name_or_path": str(tmp_path / "tiny"),
        "dataset_name": str(tmp_path / "prompts.jsonl"),
        "features": str(features().save(tmp_path / "features.safetensors")),
        "steering_alpha": ALPHA,
        "loop_min_tokens": 8,
        "rewards": ["rewards_of_mine.words", "loop_penalty", "code_switching_penalty", "soft_overlong"],
        "soft_overlong_cache": 4,
    }


def write(config: dict[str, Any], folder: Path) -> str:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return str(path)


def first_log(folder: Path) -> dict[str, float]:
    state = json.loads(next(folder.glob("checkpoint-*/trainer_state.json")).read_text(encoding="utf-8"))
    return state["log_history"][0]


def test_a_run_trains_logs_and_saves(config: dict[str, Any], tmp_path: Path) -> None:
    assert main(["grpo", "--config", write(config, tmp_path)]) == 0
    log = first_log(tmp_path / "out")
    assert log["loop_rate/steered"] == 1.0
    assert log["rewards/loop_penalty/mean"] == -0.25, "the steered one of four"
    assert log["rewards/code_switching_penalty/mean"] == 0.0
    assert log["rewards/soft_overlong_punishment_reward/mean"] < 0
    assert log["rewards/words/mean"] > 0
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_lora_from_the_command_line(config: dict[str, Any], tmp_path: Path) -> None:
    lora = ["--use_peft", "--lora_r", "2", "--lora_target_modules", "q_proj", "v_proj"]
    assert main(["grpo", "--config", write(config, tmp_path), *lora, "--steered_per_group", "2"]) == 0
    assert first_log(tmp_path / "out")["rewards/loop_penalty/mean"] == -0.5
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steerd_per_group": 1}, "Unknown setting steerd_per_group. Did you mean steered_per_group?"),
        ({"rewards": None}, "No reward"),
        ({"rewards": ["loops"]}, "Unknown reward 'loops'. Expected one of loop_penalty,"),
        ({"rewards": ["rewards_of_mine.sentences"]}, "The reward 'rewards_of_mine.sentences' cannot be imported"),
        ({"rewards": ["nowhere.words"]}, "No module named 'nowhere'"),
        ({"soft_overlong_cache": 9}, "is above max_completion_length (8)"),
        ({"features": None}, "No features"),
        ({"features": "nowhere.safetensors"}, "There is no feature set at nowhere.safetensors"),
        ({"steering_alpha": None}, "No strength"),
        ({"dataset_name": None}, "No dataset"),
        ({"model_name_or_path": None}, "No model"),
        ({"num_generations": 3}, "must be divisible by num_generations"),
    ],
)
def test_mistakes(
    changes: dict[str, Any], message: str, config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {key: value for key, value in {**config, **changes}.items() if value is not None}
    assert main(["grpo", "--config", write(kept, tmp_path)]) == 2
    assert message in capsys.readouterr().err
