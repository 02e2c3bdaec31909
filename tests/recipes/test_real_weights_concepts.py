"""The recipe on pretrained models: texts of a concept, training by label, and what is measured of both."""

from __future__ import annotations

import csv
import gzip
import json
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from real_weights_world import arm_arguments, read_jsonl
from tiny_gguf import WORDS

from sae_posttrain.cli import main as cli

SHOWN = WORDS["en"][:2]
Rows = dict[tuple[str, ...], dict[str, str]]


@pytest.fixture(scope="module")
def place(scripts: dict[str, ModuleType], world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of a concept, which is two words; its features, random and dense ones; a plain run and one by label."""
    folder = tmp_path_factory.mktemp("concepts")
    sizes = ["--shortest", "8", "--discovery", "12", "--train", "4", "--held-out", "4"]
    draw = random.Random(0)
    with (folder / "source.jsonl").open("w", encoding="utf-8") as file:
        for number in range(160):
            words = draw.choices(WORDS["en"][2:], k=draw.randint(14, 24))
            if number % 2:
                words.insert(draw.randint(10, len(words)), draw.choice(SHOWN))
            file.write(json.dumps({"text": " ".join(words)}) + "\n")
    source = ["--source", str(folder / "source.jsonl"), "--words", *SHOWN, "--name", "shown"]
    scripts["concept_texts"].main([*source, "--model", str(world / "model"), "--output", str(folder), *sizes])
    texts = ["--positive", str(folder / "positive.jsonl"), "--negative", str(folder / "negative.jsonl")]
    texts += ["--name", "shown", "--negative-name", "other", "--model", str(world / "model"), "--layers", "1", "2"]
    sae = ["--sae", str(world / "SAE-Res-tiny-W64-L0_8")]
    for select, more in {"contrast": sae, "random": sae, "dense": []}.items():
        output = ["--select", select, "--output", str(folder / f"{select}.safetensors")]
        assert cli(["discover", "contrast", *texts, *more, *output]) == 0
    options = {"sft": ["--arm", "sft"], "label": ["--label_column", "label", "--label", "by label"]}
    for name, more in options.items():
        where = ["--features", str(folder / "contrast.safetensors"), "--texts", str(folder), "--suppress", "shown"]
        scripts["arm"].main(arm_arguments(world, folder / "runs" / name, *where, *more))
    return folder


def results(path: Path) -> Rows:
    with path.open(encoding="utf-8") as file:
        return {(row["arm"], row["metric"], row["setting"]): row for row in csv.DictReader(file)}


def test_texts_show_the_concept_or_do_not(scripts: dict[str, ModuleType], world: Path, place: Path) -> None:
    def shows(text: str) -> bool:
        return bool(set(text.split()) & set(SHOWN))

    for name in ("train", "held_out"):
        rows = read_jsonl(place / f"{name}.jsonl")
        assert {row["label"] for row in rows} == {"shown", "other"}
        for row in rows:
            assert shows(row["completion"]) == (row["label"] == "shown")
            assert row["label"] == "shown" or not shows(row["prompt"])
    assert all(shows(row["text"]) for row in read_jsonl(place / "positive.jsonl"))
    assert not any(shows(row["text"]) for row in read_jsonl(place / "negative.jsonl"))
    _, tokenizer = scripts["result_rows"].load_run(world / "model", "float32")
    tokens = json.loads((place / "concept.json").read_text(encoding="utf-8"))["tokens"]
    assert {tokenizer.decode([token]).strip() for token in tokens} == set(SHOWN)


def test_a_label_is_a_concept_too(scripts: dict[str, ModuleType], world: Path, tmp_path: Path) -> None:
    rows = [{"text": f"{word} " * 12, "label": label} for label in ("bad", "good") for word in WORDS["en"][:4]]
    rows = [{**row, "text": f"{row['text']}{'xyz'[n % 3]} {n}"} for n, row in enumerate(rows * 8)]
    shown = next(iter(WORDS["en"][4:]))
    for row in rows:
        row["text"] += f" {shown} {shown}" if row["label"] == "bad" else ""
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    command = ["--source", str(tmp_path / "rows.jsonl.gz"), "--positive", "bad", "--name", "bad", "--shortest", "8"]
    scripts["concept_texts"].main([*command, "--model", str(world / "model"), "--output", str(tmp_path)])
    _, tokenizer = scripts["result_rows"].load_run(world / "model", "float32")
    tokens = json.loads((tmp_path / "concept.json").read_text(encoding="utf-8"))["tokens"]
    assert {tokenizer.decode([token]).strip() for token in tokens} == {shown}
    assert {row["label"] for row in read_jsonl(tmp_path / "train.jsonl")} == {"bad", "other"}


def test_runs_are_compared_by_label(scripts: dict[str, ModuleType], place: Path) -> None:
    command = ["--runs", str(place / "runs"), "--against", str(place / "runs" / "sft"), "--texts", str(place)]
    command += ["--results", str(place / "results.csv"), "--dtype", "float32", "--max-tokens", "6"]
    scripts["concepts"].main(command)
    rows = results(place / "results.csv")
    held_out = [row for row in read_jsonl(place / "held_out.jsonl") if row["label"] == "other"]
    tokens = json.loads((place / "concept.json").read_text(encoding="utf-8"))["tokens"]
    totals = {}
    for arm, run in (("sft", "sft"), ("by label", "label")):
        model, tokenizer = scripts["result_rows"].load_run(place / "runs" / run, "float32")
        mass, count = 0.0, 0
        for row in held_out:
            prompt = tokenizer(row["prompt"])["input_ids"]
            answer = tokenizer(row["completion"], add_special_tokens=False)["input_ids"][:6]
            with torch.no_grad():
                logits_SV = model(torch.tensor([prompt + answer])).logits[0].float()
            chosen_NV = logits_SV[len(prompt) - 1 : -1].softmax(-1)[:, tokens]
            mass, count = mass + float(chosen_NV.sum()), count + len(answer)
        totals[arm] = mass / count
        found = rows[arm, "probability of the concept per token", "shown: other"]
        assert float(found["value"]) == pytest.approx(totals[arm], abs=2e-6)
    change = rows["by label", "change of probability of the concept per token against sft", "shown: other"]
    assert float(change["value"]) == pytest.approx(totals["by label"] / totals["sft"] - 1, abs=1e-3)
    assert float(change["low"]) <= float(change["value"]) <= float(change["high"])
    kept = next((place / "runs" / "label").glob("concept-label-*.json")).stat().st_mtime_ns
    scripts["concepts"].main(command)
    assert next((place / "runs" / "label").glob("concept-label-*.json")).stat().st_mtime_ns == kept
    assert results(place / "results.csv") == rows


def test_features_steer_ablate_and_classify(scripts: dict[str, ModuleType], world: Path, place: Path) -> None:
    features: Any = {"features": "contrast", "random": "random", "dense": "dense"}
    sets = [word for name, file in features.items() for word in (f"--{name}", str(place / f"{file}.safetensors"))]
    command = ["--model", str(world / "model"), "--sae", str(world / "SAE-Res-tiny-W64-L0_8"), "--texts", str(place)]
    sizes = ["--alphas", "1", "--per-label", "4", "--max-tokens", "5", "--discovery", "8", "--dtype", "float32"]
    output = place / "steered.csv"
    scripts["concept_features"].main([*command, *sets, *sizes, "--results", str(output)])
    rows = results(output)
    for arm in features:
        assert float(rows[arm, "perplexity of sampled answers", "shown: steered, alpha 1"]["value"]) > 1
        assert rows[arm, "change of probability of the concept per token by ablation", "shown: shown"]["value"]
    assert rows["unsteered", "sampled answers with a token of the concept", "shown: unsteered"]["n"] == "4"
    assert float(rows["always yes", "f1", "shown: classified"]["value"]) == pytest.approx(2 / 3, abs=1e-6)
    assert 0 <= float(rows["features", "balanced accuracy", "shown: classified with the SAE"]["value"]) <= 1
    assert ("difference of means", "f1", "shown: classified") in rows


def test_directions_get_the_norm_of_the_features(scripts: dict[str, ModuleType]) -> None:
    directions = {
        "features": {1: torch.tensor([3.0, 4.0]), 2: torch.tensor([0.0, 2.0])},
        "random": {1: torch.tensor([1.0, 0.0]), 2: torch.tensor([0.0, 9.0]), 3: torch.tensor([1.0, 1.0])},
    }
    made = scripts["concept_features"].equal_norms(directions)
    assert torch.equal(made["features"][1], directions["features"][1])
    assert made["random"].keys() == {1, 2}
    assert torch.allclose(made["random"][1], torch.tensor([5.0, 0.0]))
