"""`sae-posttrain sft` from a YAML file: full and LoRA, one process and two, and its errors."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from two_processes import TIMEOUT, launch

from sae_posttrain import FeatureSet
from sae_posttrain.cli import main
from sae_posttrain.cli.trainer_runs import checkpoint_of


@pytest.fixture
def config(
    make_model: Callable[..., nn.Module],
    tokenizer: PreTrainedTokenizerFast,
    features: FeatureSet,
    rows: list[dict[str, Any]],
    tmp_path: Path,
) -> dict[str, Any]:
    """Settings of a two-step run on files in a folder of their own."""
    make_model().save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    return {
        "model_name_or_path": str(tmp_path / "tiny"),
        "dataset_name": str(tmp_path / "rows.jsonl"),
        "features": str(features.save(tmp_path / "features.safetensors")),
        "suppress": ["zh", "ru"],
        "sasft_weight": 0.5,
        "max_steps": 2,
        "logging_steps": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "output_dir": str(tmp_path / "out"),
    }


def write(config: dict[str, Any], folder: Path) -> str:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return str(path)


def state(folder: Path) -> dict[str, Any]:
    """What the run's one checkpoint says of it."""
    return json.loads(next(folder.glob("checkpoint-*/trainer_state.json")).read_text(encoding="utf-8"))


def test_a_run_trains_logs_and_saves(config: dict[str, Any], tmp_path: Path) -> None:
    assert main(["sft", "--config", write(config, tmp_path)]) == 0
    assert state(tmp_path / "out")["log_history"][0]["sasft_loss"] > 0
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny")
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), before.parameters(), strict=True))
    assert "SASFT" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    log = json.loads((tmp_path / "out" / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    assert "train_runtime" in log[-1], "what comes after the last checkpoint is in it too"


@pytest.mark.parametrize("named", [None, "nowhere.safetensors"])
def test_weight_zero_needs_no_feature_file(named: str | None, config: dict[str, Any], tmp_path: Path) -> None:
    """Plain SFT, bit for bit what the same command with a feature file and weight 0 trains."""
    given = {key: value for key, value in config.items() if key != "features"} | {"sasft_weight": 0}
    models = []
    for folder, more in (("with", {"features": config["features"]}), ("without", {"features": named})):
        settings = {key: value for key, value in (given | more).items() if value is not None}
        settings["output_dir"] = str(tmp_path / folder)
        assert main(["sft", "--config", write(settings, tmp_path)]) == 0
        models.append(AutoModelForCausalLM.from_pretrained(tmp_path / folder))
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))


def test_a_lora_adapter_loads_in_plain_peft(config: dict[str, Any], tmp_path: Path) -> None:
    lora = ["--use_peft", "--lora_r", "2", "--lora_target_modules", "q_proj", "v_proj"]
    assert main(["sft", "--config", write(config, tmp_path), *lora]) == 0
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny")
    adapted = PeftModel.from_pretrained(base, tmp_path / "out")
    assert any("lora_B" in name and p.abs().sum() > 0 for name, p in adapted.named_parameters())


def test_two_processes_follow_one(config: dict[str, Any], tmp_path: Path) -> None:
    """The same eight rows a step on one rank and on two: same losses, same auxiliary loss, same refreshed baselines.

    Neither rank sees enough tokens for a refresh in its four steps; both together do.
    """
    config = {**config, "max_steps": 5, "sasft_refresh_baselines": 4, "output_dir": str(tmp_path / "one")}
    assert main(["sft", "--config", write(config, tmp_path), "--per_device_train_batch_size", "8"]) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "-m", "sae_posttrain", "sft", "--config", write(config, tmp_path)]
    command += ["--per_device_train_batch_size", "4", "--output_dir", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "ACCELERATE_USE_CPU": "true"})
    assert done.returncode == 0, done.stderr
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    keys = ("num_tokens", "loss", "sasft_loss", "sasft_penalised_share", "sasft_pre_activation_zh", "grad_norm")
    for log, same_log in zip(one["log_history"][:5], two["log_history"], strict=False):
        assert {key: same_log[key] for key in keys} == pytest.approx({key: log[key] for key in keys}, rel=1e-4)
    drift = [log["log_history"][3]["sasft_drift_layer_2"] for log in (one, two)]
    assert drift[1] == pytest.approx(drift[0], rel=1e-4)
    refreshed, same_refreshed = (one["stateful_callbacks"]["SASFT"]["refresh"] for one in (one, two))
    for kind in ("baselines", "sums"):
        for layer, by_language in refreshed[kind].items():
            for code, values in by_language.items():
                assert same_refreshed[kind][layer][code] == pytest.approx(values, rel=1e-3)


def test_a_weight_that_finds_itself(config: dict[str, Any], tmp_path: Path) -> None:
    config = {**config, "sasft_weight": "auto", "max_steps": 5}
    assert main(["sft", "--config", write(config, tmp_path), "--sasft_loss_budget", "0.02"]) == 0
    log = state(tmp_path / "out")["log_history"]
    assert [entry["sasft_weight"] for entry in log[:3]] == [0.0, 0.0, 0.0]
    assert log[3]["sasft_weight"] > 0
    command = ["sft", "--config", write({**config, "sasft_weight": 0.5}, tmp_path), "--sasft_weight", "auto"]
    command += ["--token_weight", "auto", "--output_dir", str(tmp_path / "line"), "--save_strategy", "no"]
    assert main(command) == 0
    again = json.loads((tmp_path / "line" / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    assert again[3]["sasft_token_weight"] > 0
    assert again[3]["sasft_weight"] == pytest.approx(log[3]["sasft_weight"] / 4), (
        "half of a budget that is half as large"
    )


@pytest.mark.parametrize(
    ("given", "meant"),
    [("true", True), ("True", True), ("false", False), (True, True), (None, None), ("runs/checkpoint-3",) * 2],
)
def test_what_to_resume_from(given: Any, meant: Any) -> None:
    assert checkpoint_of(given) is meant


@pytest.mark.slow
@pytest.mark.timeout(2 * TIMEOUT + 20)  # of two launches
@pytest.mark.parametrize("way", ["ddp", "fsdp2", "zero2", "zero3"])
def test_ready_configurations_train_resume_and_save(way: str, config: dict[str, Any], tmp_path: Path) -> None:
    """A checkpoint of two processes, continued, gives the weights of the uninterrupted run; transformers loads them."""
    if way.startswith("zero"):
        pytest.importorskip("deepspeed")
    settings = {**config, "max_steps": 4, "save_steps": 2, "use_cpu": way == "ddp"}
    models = []
    resume = ["--resume_from_checkpoint", str(tmp_path / "whole" / "checkpoint-2")]
    for folder, more in (("whole", []), ("resumed", resume)):
        command = ["sft", "--config", write(settings, tmp_path), "--output_dir", str(tmp_path / folder), *more]
        code, stderr = launch(way, "sae_posttrain", *command)
        assert code == 0, stderr
        models.append(AutoModelForCausalLM.from_pretrained(tmp_path / folder))
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny")
    for whole, resumed, start in zip(*(model.parameters() for model in (*models, before)), strict=True):
        assert torch.equal(whole, resumed)
        assert not torch.equal(whole, start)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_weight": "lots"}, "token_weight='lots': expected a number of at least 0, or auto"),
        ({"sasft_weight": "lots"}, "sasft_weight='lots': expected a number of at least 0, or auto"),
        ({"sasft_wieght": 1.0}, "Unknown setting sasft_wieght. Did you mean sasft_weight?"),
        ({"dataset_name": None}, "No dataset"),
        ({"features": "nowhere.safetensors"}, "There is no feature set at nowhere.safetensors"),
        ({"features": None}, "No features"),
        ({"suppress": ["th"]}, "No feature stands for th"),
        ({"resume_from_checkpoint": "true"}, "No valid checkpoint found in output directory"),
        ({"dataset_train_split": "tarin"}, "no split 'tarin', only train"),
    ],
)
def test_mistakes(
    changes: dict[str, Any], message: str, config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {key: value for key, value in {**config, **changes}.items() if value is not None}
    assert main(["sft", "--config", write(kept, tmp_path)]) == 2
    assert message in capsys.readouterr().err
