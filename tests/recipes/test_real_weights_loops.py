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
from transformers import AutoModelForCausalLM

from sae_posttrain import FeatureSet
from sae_posttrain.cli import main as cli
from sae_posttrain.metrics.loops import LoopSettings, find_loop
from sae_posttrain.steering import typical_contributions
from sae_posttrain.training.rollouts import SteeredGRPOConfig
from sae_posttrain.training.rollouts.source import source_of, steering_set

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
    for other in (["--seed", "1"], ["--steering_alpha", "1.5"], ["--greedy_rollout_temperature", "0.3"]):
        with pytest.raises(ValueError, match="holds another arm"):
            train(arguments(place, "dapo", *other))
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


@pytest.fixture(scope="module")
def rates(scripts: dict[str, ModuleType], runs: dict[str, dict[str, Any]], place: Path) -> list[dict[str, Any]]:
    """The rates of the model and of each arm; the model's answers are kept in the folder `place`."""
    settings = ["--min-tokens", LEAST, "--max-new-tokens", LENGTH, "--dtype", "float32", "--batch-size", 7]
    where = ["--prompts", place / "texts" / "held_out_prompts.jsonl", "--results", place / "elsewhere" / "results.csv"]
    names = ["--runs", place / "model", place / "runs", "--against", place / "runs" / "dapo-0", "--keep", place]
    rows: list[dict[str, Any]] = scripts["repetition_rates"].main(list(map(str, [*names, *where, *settings])))
    return rows


def test_rates_are_those_of_the_kept_answers_beside_dapos(rates: list[dict[str, Any]], place: Path) -> None:
    with (place / "elsewhere" / "results.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(rates)
    loops = {row["arm"]: float(row["value"]) for row in rates if row["metric"] == "responses that loop"}
    assert loops.keys() == {"base", *ARMS}
    kept = json.loads((place / "answers-model-held_out_prompts-0.json").read_text("utf-8"))["rows"]
    by_hand = [find_loop(one["ids"], LoopSettings(min_tokens=LEAST), ended=one["ended"]) is not None for one in kept]
    assert loops["base"] == pytest.approx(sum(by_hand) / 24, abs=1e-6)
    assert 0 < loops["base"] < 1
    changes = {row["arm"]: row for row in rates if row["metric"] == "change of responses that loop against dapo"}
    assert changes.keys() == {*ARMS} - {"dapo"}
    expected = loops["greedy_rollout"] / loops["dapo"] - 1
    assert float(changes["greedy_rollout"]["value"]) == pytest.approx(expected, abs=1e-5)
    assert float(changes["extra_plain"]["value"]) == 0
    rollouts = {row["arm"]: int(row["n"]) for row in rates if row["metric"] == "chosen rollouts that loop"}
    assert rollouts == dict.fromkeys([arm for arm in ARMS if arm != "dapo"], 2 * 4)


def test_causality_suppresses_where_the_model_loops_and_amplifies_elsewhere(
    scripts: dict[str, ModuleType], rates: list[dict[str, Any]], place: Path
) -> None:
    answers = place / "answers-model-held_out_prompts-0.json"
    where = ["--model", place / "model", "--features", place / "both.safetensors", "--answers", answers]
    settings = ["--min-tokens", LEAST, "--max-new-tokens", LENGTH, "--dtype", "float32", "--prompts", 5]
    strengths = ["--suppress", 0, 30, "--amplify", 0, 30, "--draws", 0, 1, "--results", place / "causality.csv"]
    command = [*where, *settings, *strengths, "--batch-size"]
    rows = scripts["causality"].main(list(map(str, [*command, 13])))
    assert rows == scripts["causality"].main(list(map(str, [*command, 5]))), "a batch for each trial gives the same"
    rows = [row for row in rows if "loop" in row["metric"]]
    loops = {(row["arm"], row["seed"], row["setting"][:11]): row for row in rows}
    assert len(loops) == len(rows) == 2 * 2 * (1 + 2 + 1) * 2, "ways, layers, features or draws or all draws, strengths"
    for (arm, _, setting), row in loops.items():
        if setting == "strength 0,":
            assert float(row["value"]) == ("suppress" in arm), "unchanged, as the prompts were chosen"
    random = "suppress, layer 1, random directions"
    every, *each = (loops[random, seed, "strength 30"] for seed in ("0+1", "0", "1"))
    assert float(every["value"]) == pytest.approx(sum(float(row["value"]) for row in each) / 2, abs=1e-6)
    assert every["n"] == 2 * each[0]["n"]
    alone = scripts["causality"].main(list(map(str, [*command, 13, "--layers", 2, "--amplify"])))
    assert {row["arm"] for row in alone} == {"suppress, layer 2", "suppress, layer 2, random directions"}


def test_the_experiment_reads_the_answers_where_they_are_kept(scripts: dict[str, ModuleType]) -> None:
    where = {name: Path(name) for name in ("models", "output", "corpus")} | {"results": Path("elsewhere/r.csv")}
    steps = {step.name: step.command for step in scripts["run"].read_steps("repetition", {**where, "here": RECIPE})}

    def after(step: str, option: str) -> Path:
        return Path(steps[step][steps[step].index(option) + 1])

    name = scripts["repetition_rates"].file_of_answers(after("rates", "--runs"), after("rates", "--prompts"), 0.0)
    assert after("causality", "--answers") == after("rates", "--keep") / name


def test_what_is_compared_at_a_norm_adds_vectors_of_one_length(
    scripts: dict[str, ModuleType], place: Path, tmp_path: Path
) -> None:
    norms, features = scripts["norms"], FeatureSet.load(place / "features.safetensors")
    compared = norms.arms(features, FeatureSet.load(place / "dense.safetensors"), [0, 1])
    written = [typical_contributions(one)[2] for one in compared.values()]
    assert [vector.norm().item() for vector in written] == pytest.approx([written[0].norm().item()] * 4, rel=1e-5)
    args = SteeredGRPOConfig(str(tmp_path), bf16=False, steering_control="random_direction", steering_alpha=1.0)
    chosen = steering_set(args, features, seed=1)
    training = source_of(args, features, chosen, AutoModelForCausalLM.from_pretrained(place / "model"), None)
    torch.testing.assert_close(training.directions[2], typical_contributions(compared["random direction", "1"])[2])
    with pytest.raises(ValueError, match=r"Features of layers \[1, 2\], dense of none: expected one layer"):
        norms.arms(FeatureSet.load(place / "both.safetensors"), None, [0])


def test_loops_are_counted_at_each_norm_and_for_all_random_directions_together(
    scripts: dict[str, ModuleType], place: Path, tmp_path: Path
) -> None:
    named = {"model": place / "model", "features": place / "features.safetensors", "dense": place / "dense.safetensors"}
    named |= {"prompts": place / "texts" / "held_out_prompts.jsonl", "results": tmp_path / "r.csv"}
    numbers = [
        "--dtype",
        "float32",
        "--limit",
        6,
        "--alphas",
        3,
        30,
        "--draws",
        0,
        1,
        "--min-tokens",
        LEAST,
        "--max-new-tokens",
        LENGTH,
    ]
    where = [word for name, value in named.items() for word in (f"--{name}", value)]
    rows = scripts["norms"].main(list(map(str, [*where, *numbers])))
    loops = {(row["arm"], row["seed"], row["setting"]): row for row in rows if row["metric"] == "responses that loop"}
    arms = {("features", ""), ("dense direction", ""), *(("random direction", seed) for seed in ("0", "1", "0+1"))}
    assert {key[:2] for key in loops} == {("unsteered", "")} | {(f"{name}, layer 2", seed) for name, seed in arms}
    for alpha in (3, 30):
        setting = f"norm of the features at alpha {alpha}, temperature 0.7"
        every, *each = (loops["random direction, layer 2", seed, setting] for seed in ("0+1", "0", "1"))
        assert float(every["value"]) == pytest.approx(sum(float(row["value"]) for row in each) / 2, abs=1e-6)
        assert (every["n"], each[0]["n"]) == (12, 6)
