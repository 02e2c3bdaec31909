"""The experiment on repetition: two steps of each arm of the shipped YAML on a tiny model, its rates and its causes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from real_weights_world import RECIPE, read_jsonl
from safetensors.torch import load_file
from tiny_models import WIDTH, qwen3, word_tokenizer, write_saes

from sae_posttrain import FeatureSet
from sae_posttrain.cli import main as cli
from sae_posttrain.metrics.loops import LoopSettings, find_loop
from sae_posttrain.steering import typical_contributions

LEAST, LENGTH = 12, 40
ARMS = ("dapo", "steered", "random_direction", "extra_plain", "dense", "greedy_rollout")
TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


@pytest.fixture(scope="module")
def place(scripts: dict[str, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that falls into loops now and then, prompts, SAE features of loops and the dense direction."""
    folder = tmp_path_factory.mktemp("loops")
    for split, name in (("train", "story_prompts"), ("held_out", "held_out_prompts")):
        target = folder / "texts" / f"{name}.jsonl"
        scripts["prompts"].main(["--split", split, "--count", "24", "--output", str(target)])
    rows = [row for path in (folder / "texts").glob("*.jsonl") for row in read_jsonl(path)]
    tokenizer = word_tokenizer([row["prompt"] for row in rows], "<pad>", "<eos>")
    tokenizer.chat_template = TEMPLATE
    model = qwen3(len(tokenizer), seed=1, initializer_range=0.02)
    for one in (model, tokenizer):
        one.save_pretrained(folder / "model")
    write_saes(folder / "SAE-tiny-L0_10", (1, 2), 40, WIDTH, seed=2)
    model_and_prompts = ["--model", folder / "model", "--prompts", folder / "texts" / "story_prompts.jsonl"]
    settings = ["--min-length", LEAST, "--max-new-tokens", LENGTH, "--loops", 4]
    discover = ["discover", "repetition", *model_and_prompts, *settings, "--layers"]
    found = ["1", "2", "--sae", folder / "SAE-tiny-L0_10", "--output", folder / "both.safetensors"]
    assert cli(list(map(str, [*discover, *found]))) == 0
    dense = ["2", "--select", "dense", "--output", folder / "dense.safetensors"]
    assert cli(list(map(str, [*discover, *dense]))) == 0
    FeatureSet.load(folder / "both.safetensors").select(layers=[2]).save(folder / "features.safetensors")
    return folder


def arguments(place: Path, arm: str, *more: str) -> list[str]:
    settings = {
        "config": RECIPE / "smollm2-135m.yaml",
        "model_name_or_path": place / "model",
        "texts": place / "texts",
        "features": place / "features.safetensors",
        "dense_features": place / "dense.safetensors",
        "steering_alpha": 3.0,
        "arm": arm,
        "output_dir": place / "runs" / f"{arm}-0",
        "max_steps": 2,
        "max_completion_length": LENGTH,
        "loop_min_tokens": LEAST,
        "dtype": "float32",
        "bf16": "false",
    }
    named = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
    return [*named, "--lora_target_modules", "q_proj", "v_proj", *more]


@pytest.fixture(scope="module")
def runs(scripts: dict[str, ModuleType], place: Path) -> dict[str, dict[str, Any]]:
    """What each arm recorded."""
    folders = {arm: scripts["repetition"].main(arguments(place, arm)) for arm in ARMS}
    return {arm: json.loads((folder / "arm.json").read_text("utf-8")) for arm, folder in folders.items()}


def adapter(place: Path, arm: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(place / "runs" / f"{arm}-0" / "adapter_model.safetensors")
    return found


def test_every_arm_trains_in_its_own_way_and_one_more_plain_rollout_is_dapo(
    runs: dict[str, dict[str, Any]], place: Path
) -> None:
    assert [record["arm"] for record in runs.values()] == list(ARMS)
    same = {arm: all(torch.equal(value, adapter(place, arm)[name]) for name, value in adapter(place, "dapo").items())
            for arm in ARMS}  # fmt: skip
    assert same == {arm: arm in ("dapo", "extra_plain") for arm in ARMS}
    assert runs["dapo"]["logged"]["loop_rate/steered"] is None
    assert runs["greedy_rollout"]["logged"]["loop_rate/steered"] is not None


def test_the_dense_direction_is_as_long_as_what_the_features_write(
    runs: dict[str, dict[str, Any]], place: Path
) -> None:
    norms = [
        runs[arm]["alpha"] * typical_contributions(FeatureSet.load(place / name))[2].norm().item()
        for arm, name in (("steered", "features.safetensors"), ("dense", "dense.safetensors"))
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_a_finished_arm_is_left_alone_and_what_is_missing_is_named(
    scripts: dict[str, ModuleType], runs: dict[str, dict[str, Any]], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = scripts["repetition"].main
    train(arguments(place, "dapo"))
    assert "is finished" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds another arm"):
        train(arguments(place, "dapo", "--seed", "1"))
    for changes, message in (
        (["--arm", "other"], "expected one of dapo, steered"),
        (["--texts", "nowhere"], "holds no story_prompts.jsonl"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            train([*arguments(place, "dapo"), *changes])


def test_the_task_counts_each_word_once(scripts: dict[str, ModuleType]) -> None:
    task = scripts["story_reward"].about_the_subject
    story = "the moon " + " ".join(f"word{'a' * n}" for n in range(100))
    looping, other, short = "the moon " * 60, "the sun " * 60, "The Moon."
    found = task(["?"] * 4, [story, looping, other, short], subject=["the moon"] * 4)
    assert found == pytest.approx([1.0, 1.0, 0.5, 0.5 + 1 / 75])


def test_rates_are_those_of_the_kept_answers_beside_dapos(
    scripts: dict[str, ModuleType], runs: dict[str, dict[str, Any]], place: Path
) -> None:
    settings = ["--min-tokens", LEAST, "--max-new-tokens", LENGTH, "--dtype", "float32", "--batch-size", 7]
    where = ["--prompts", place / "texts" / "held_out_prompts.jsonl", "--results", place / "results.csv"]
    names = ["--runs", place / "model", place / "runs", "--against", place / "runs" / "dapo-0"]
    rows = scripts["repetition_rates"].main(list(map(str, [*names, *where, *settings])))
    with (place / "results.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    loops = {row["arm"]: float(row["value"]) for row in rows if row["metric"] == "responses that loop"}
    assert loops.keys() == {"base", *ARMS}
    kept = json.loads((place / "answers-model-held_out_prompts-0.json").read_text("utf-8"))["rows"]
    by_hand = [find_loop(one["ids"], LoopSettings(min_tokens=LEAST), ended=one["ended"]) is not None for one in kept]
    assert loops["base"] == pytest.approx(sum(by_hand) / 24, abs=1e-6)
    assert 0 < loops["base"] < 1
    changes = {row["arm"]: row for row in rows if row["metric"] == "change of responses that loop against dapo"}
    assert changes.keys() == {*ARMS} - {"dapo"}
    expected = loops["greedy_rollout"] / loops["dapo"] - 1
    assert float(changes["greedy_rollout"]["value"]) == pytest.approx(expected, abs=1e-5)
    assert float(changes["extra_plain"]["value"]) == 0
    rollouts = {row["arm"]: int(row["n"]) for row in rows if row["metric"] == "chosen rollouts that loop"}
    assert rollouts == dict.fromkeys([arm for arm in ARMS if arm != "dapo"], 2 * 4)


def test_causality_suppresses_where_the_model_loops_and_amplifies_elsewhere(
    scripts: dict[str, ModuleType], runs: dict[str, dict[str, Any]], place: Path
) -> None:
    answers = place / "answers-model-held_out_prompts-0.json"
    where = ["--model", place / "model", "--features", place / "both.safetensors", "--answers", answers]
    settings = ["--min-tokens", LEAST, "--max-new-tokens", LENGTH, "--dtype", "float32", "--prompts", 5]
    strengths = ["--suppress", 0, 30, "--amplify", 0, 30, "--results", place / "causality.csv"]
    command = [*where, *settings, *strengths, "--batch-size"]
    rows = scripts["causality"].main(list(map(str, [*command, 13])))
    assert rows == scripts["causality"].main(list(map(str, [*command, 5]))), "a batch for each trial gives the same"
    loops = {(row["arm"], row["setting"][:11]): float(row["value"]) for row in rows if "loop" in row["metric"]}
    assert len(loops) == 2 * 2 * 2 * 2, "layers, ways, features or random, strengths"
    for (arm, setting), value in loops.items():
        if setting == "strength 0,":
            assert value == ("suppress" in arm), "unchanged, as the prompts were chosen"
    assert {row["seed"] for row in rows if "random" in row["arm"]} == {"0"}
