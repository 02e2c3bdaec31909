"""The recipe on pretrained models: the rival ORPO, two steps long."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from real_weights_world import RECIPE, read_jsonl
from safetensors.torch import load_file
from tiny_gguf import WORDS

from sae_posttrain.languages import script_counts


def test_rejected_answers_begin_as_the_chosen_ones_and_go_over_to_another_language(
    scripts: dict[str, ModuleType], world: Path
) -> None:
    rows = read_jsonl(world / "texts" / "train.jsonl")
    pairs = list(scripts["orpo"].pairs(rows, ["zh"], 0))
    assert {row["language"] for row in rows} == set(WORDS)
    for row, pair in zip(rows, pairs, strict=True):
        assert (pair["prompt"], pair["chosen"]) == (row["prompt"], row["completion"])
        shared = len(pair["chosen"]) // 4
        assert pair["rejected"].startswith(pair["chosen"][:shared])
        assert pair["rejected"] != pair["chosen"]
        if row["language"] != "zh":
            assert "Hani" in script_counts(pair["rejected"])
    assert list(scripts["orpo"].pairs(rows, ["zh"], 0)) == pairs
    assert list(scripts["orpo"].pairs(rows, ["zh"], 1)) != pairs


def test_orpo_trains_two_steps_and_a_finished_run_is_left_alone(
    scripts: dict[str, ModuleType], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", str(RECIPE / "gemma3-270m-orpo.yaml"), "--texts", str(world / "texts"), "--max_steps", "2"]
    words += ["--model_name_or_path", str(world / "model"), "--output_dir", str(tmp_path / "orpo"), "--seed", "1"]
    assert scripts["orpo"].main(words) == tmp_path / "orpo"
    described = json.loads((tmp_path / "orpo" / "arm.json").read_text("utf-8"))
    assert (described["arm"], described["label"], described["seed"]) == ("orpo", "orpo zh 0.1", 1)
    weights = load_file(tmp_path / "orpo" / "adapter_model.safetensors")
    assert any(bool(torch.any(weight != 0)) for name, weight in weights.items() if "lora_B" in name)
    scripts["orpo"].main(words)
    assert "is finished" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds another arm"):
        scripts["orpo"].main([*words, "--beta", "0.5"])
