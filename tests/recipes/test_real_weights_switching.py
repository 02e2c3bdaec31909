"""The recipe on pretrained models: arms of the code-switching experiment, two steps long."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from real_weights_world import arm_arguments, read_jsonl
from safetensors.torch import load_file
from tiny_gguf import WORDS
from transformers import AutoModelForCausalLM, AutoTokenizer


def test_texts_are_split_where_tokens_end_and_none_is_both_trained_on_and_held_out(world: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    found = {name: read_jsonl(world / "texts" / f"{name}.jsonl") for name in ("train", "held_out", "prompts")}
    assert {row["language"] for row in found["train"]} == set(WORDS)
    for row in [*found["train"], *found["held_out"]]:
        prompt, answer, whole = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (row["prompt"], row["completion"], row["prompt"] + row["completion"])
        )
        assert prompt + answer == whole
        assert len(whole) >= 8
    train, held_out = ({row["prompt"] + row["completion"] for row in found[name]} for name in ("train", "held_out"))
    assert held_out
    assert not train & held_out
    assert [row["prompt"] for row in found["prompts"]] == [row["prompt"] for row in found["held_out"]]


def test_arms_train_on_the_same_rows_and_a_finished_one_is_left_alone(
    scripts: dict[str, ModuleType], world: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {name: load_file(runs / name / "adapter_model.safetensors") for name in ("sft", "zero", "sasft")}
    assert all(torch.equal(weights["sft"][name], weights["zero"][name]) for name in weights["sft"])  # the same rows
    assert any(not torch.equal(weights["sft"][name], weights["sasft"][name]) for name in weights["sft"])
    token = load_file(runs / "token" / "adapter_model.safetensors")
    assert any(not torch.equal(weights["sft"][name], token[name]) for name in token)
    assert json.loads((runs / "token" / "arm.json").read_text("utf-8"))["label"] == "token_mass zh 100"
    described = json.loads((runs / "sasft" / "arm.json").read_text("utf-8"))
    assert (described["label"], described["seed"]) == ("sasft zh 2", 42)

    written = (runs / "sasft" / "adapter_model.safetensors").stat().st_mtime_ns
    assert scripts["arm"].main(arm_arguments(world, runs / "sasft")) == runs / "sasft"
    assert "is finished" in capsys.readouterr().out
    assert (runs / "sasft" / "adapter_model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="holds another arm"):
        scripts["arm"].main(arm_arguments(world, runs / "sasft", "--sasft_weight", "3"))


def test_evaluation_measures_each_arm_and_compares_it_text_by_text(
    scripts: dict[str, ModuleType], world: Path, runs: Path, tmp_path: Path
) -> None:
    def evaluate(*folders: Path, more: Sequence[str] = ()) -> list[dict[str, str]]:
        files = ["--against", str(runs / "sft"), "--skip", "1", "--texts", str(world / "texts")]
        where = ["--results", str(tmp_path / "results.csv"), "--per-language", "2", "--dtype", "float32"]
        scripts["evaluate"].main(["--runs", *map(str, folders), *files, *where, *more])
        with (tmp_path / "results.csv").open(encoding="utf-8") as file:
            return list(csv.DictReader(file))

    rows = evaluate(world / "model", runs / "sft", runs / "sasft")
    assert tuple(rows[0]) == scripts["evaluate"].COLUMNS
    assert {row["arm"] for row in rows} == {"base", "sft", "sasft zh 2"}
    found = {(row["arm"], row["metric"], row["setting"]): float(row["value"]) for row in rows}
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in rows)
    for setting in ("into Hani, top_p 1", "into Hang, top_p 0.9", "into Cyrl, top_p 1"):
        ours, plain = (found[arm, "probability of leaving", setting] for arm in ("sasft zh 2", "sft"))
        change = found["sasft zh 2", "change of leaving against sft", setting]
        assert change == pytest.approx(ours / plain - 1, abs=1e-2)
        assert plain > 0
    assert found["base", "held-out loss", "all"] == pytest.approx(loss_by_hand(world), rel=1e-4)
    before = {row["setting"]: row["value"] for row in rows if (row["arm"], row["metric"]) == ("sft", "held-out loss")}
    two = evaluate(runs / "sasft", more=["--languages", "ru", "ko", "--recipe", "two"])
    losses = {row["setting"]: row for row in two if row["recipe"] == "two" and row["arm"] == "sft"}
    assert {code: losses[code]["value"] for code in ("ru", "ko")} == {code: before[code] for code in ("ru", "ko")}
    assert "en" not in losses
    switches = {row["setting"]: row for row in two if row["recipe"] == "two" and "probability" in row["metric"]}
    assert int(switches["into Hani, top_p 1"]["n"]) == 4
    rows = [*rows, *(row for row in two if row["recipe"] == "two")]
    again = evaluate(runs / "sasft")  # from what was kept; its rows take the place of the earlier ones
    assert sorted(map(str, again)) == sorted(map(str, rows))


def test_the_seeds_of_an_arm_are_also_compared_together(
    scripts: dict[str, ModuleType], world: Path, runs: Path, tmp_path: Path
) -> None:
    for name, seed, more in (("sft-1", "1", ["--arm", "sft"]), ("sasft-1", "1", [])):
        scripts["arm"].main(arm_arguments(world, tmp_path / name, "--seed", seed, *more))
    files = ["--texts", str(world / "texts"), "--results", str(tmp_path / "results.csv"), "--dtype", "float32"]
    folders = ["--runs", str(runs / "sasft"), str(tmp_path), "--against", str(runs / "sft"), str(tmp_path / "sft-1")]
    scripts["evaluate"].main([*folders, *files, "--per-language", "3"])
    with (tmp_path / "results.csv").open(encoding="utf-8") as file:
        found = {(row["arm"], row["seed"], row["metric"], row["setting"]): row for row in csv.DictReader(file)}
    assert {key[:2] for key in found} == {(arm, seed) for arm in ("sft", "sasft zh 2") for seed in ("42", "1", "42+1")}
    for metric, setting in (("probability of leaving", "into Hani, top_p 1"), ("held-out loss", "zh")):
        for arm in ("sft", "sasft zh 2"):
            one, other, both = (float(found[arm, seed, metric, setting]["value"]) for seed in ("42", "1", "42+1"))
            assert both == pytest.approx((one + other) / 2, rel=1e-4)
    ours, plain = (
        float(found[arm, "42+1", "probability of leaving", "into Hani, top_p 1"]["value"])
        for arm in ("sasft zh 2", "sft")
    )
    change = found["sasft zh 2", "42+1", "change of leaving against sft", "into Hani, top_p 1"]
    assert float(change["value"]) == pytest.approx(ours / plain - 1, abs=1e-2)
    assert change["n"] == "12"  # texts, not answers


def loss_by_hand(world: Path) -> float:
    """The base model's cross-entropy of two held-out answers per language after the first, one at a time."""
    model = AutoModelForCausalLM.from_pretrained(world / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    rows = read_jsonl(world / "texts" / "held_out.jsonl")
    summed, counted = 0.0, 0
    for code in WORDS:
        for row in [row for row in rows if row["language"] == code][1:3]:
            prompt = tokenizer(row["prompt"])["input_ids"]
            ids = torch.tensor([prompt + tokenizer(row["completion"], add_special_tokens=False)["input_ids"][:48]])
            with torch.no_grad():
                surprise_S = -model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
            summed += float(surprise_S[len(prompt) - 1 :].sum())
            counted += ids.shape[1] - len(prompt)
    return summed / counted


def test_an_arm_says_what_is_missing_before_anything_is_loaded(
    scripts: dict[str, ModuleType], world: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="expected one of sft, sasft, random_features, token_mass"):
        scripts["arm"].main(arm_arguments(world, tmp_path, "--arm", "grpo"))
    with pytest.raises(ValueError, match=r"arm=token_mass needs token_weight"):
        scripts["arm"].main(arm_arguments(world, tmp_path, "--arm", "token_mass"))
    with pytest.raises(FileNotFoundError, match=r"texts\.py writes it"):
        scripts["arm"].main(arm_arguments(world, tmp_path, "--texts", str(tmp_path)))


def test_an_arm_may_know_few_labels_and_see_few_languages(scripts: dict[str, ModuleType], world: Path) -> None:
    arm = scripts["arm"]
    rows = arm.training_rows(arm.ArmArguments(texts=str(world / "texts"), languages=["en", "zh"], labelled=0.25))
    assert [row["language"] for row in rows] == ["en", "zh", "en", "zh", *[""] * 12]
    every = arm.training_rows(arm.ArmArguments(texts=str(world / "texts")))
    assert {row["language"] for row in every} == set(WORDS)
    assert {row["prompt"] for row in rows} < {row["prompt"] for row in every}
