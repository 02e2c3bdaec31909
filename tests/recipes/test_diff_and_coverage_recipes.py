"""The recipes of model diffs and of coverage as shipped, on a model and SAEs made here and a generator on loopback."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import openai_server
import pytest
import torch
from scripts import load_script
from tiny_models import BLOCKS, WIDTH, qwen3, word_tokenizer, write_saes

from sae_posttrain import FeatureSet
from sae_posttrain.feature_set import LayerFeatures, Provenance

RECIPES = Path(__file__).parents[2] / "recipes"
WORDS = ["the", "cat", "sees", "a", "small", "house", "sings", "there", "and", "it", "runs"]


def recipe(name: str) -> ModuleType:
    return load_script(RECIPES / name / "run.py", f"{name}_recipe")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four runs that differ a little, SAEs, a feature set and texts."""
    folder = tmp_path_factory.mktemp("place")
    tokenizer = word_tokenizer(WORDS, "<pad>", "<eos>")
    for seed, name in enumerate(("sft-0", "sft-1", "sft-2", "sasft-0")):
        model = qwen3(len(tokenizer), initializer_range=0.3)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.01 * seed * torch.randn_like(parameter)
        tokenizer.save_pretrained(folder / name)
        model.save_pretrained(folder / name)
    write_saes(folder / "SAE-tiny-L0_4", range(2), d_sae=40, width=WIDTH)
    vectors = {name: torch.randn(2, WIDTH) for name in ("encoder", "direction")}
    numbers = {name: torch.ones(2) for name in ("bias", "score", "typical")}
    layer = LayerFeatures(1, (7, 8), ("zh", "zh"), **vectors, **numbers, baselines={}, activations={})
    FeatureSet((layer,), Provenance("base", WIDTH, BLOCKS, "sae", {}, "", "random")).save(folder / "f.safetensors")
    rng = np.random.default_rng(0)

    def text() -> str:
        return " ".join(rng.choice(WORDS, 6))

    answers = [{"prompt": text(), "completion": f" {text()}", "language": code} for code in ("en", "zh") * 6]
    write(folder / "held_out.jsonl", answers)
    write(folder / "seed.jsonl", [{"text": text()} for _ in range(3)])
    write(folder / "pool.jsonl", [{"text": text()} for _ in range(40)])
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_models_are_read_once_and_compared(place: Path, tmp_path: Path) -> None:
    run, output = recipe("model_diff"), tmp_path / "diffs"
    sources = ["--sae", str(place / "SAE-tiny-L0_4"), "--layers", "0", "1", "--texts", str(place / "held_out.jsonl")]
    runs = ["--base", str(place / "sft-0"), "--tuned", str(place / "sasft-0")]
    runs += ["--noise", str(place / "sft-1"), str(place / "sft-2")]
    files = ["--features", str(place / "f.safetensors"), "--target", "zh", "--output", str(output)]
    rows = run.main([*runs, *sources, *files, "--passages", "1", "--results", str(tmp_path / "results.csv")])
    assert {row["tuned"] for row in rows} == {"sasft-0", "sft-1", "sft-2"}
    assert sorted(path.stem for path in output.glob("*.npz")) == ["sasft-0", "sft-0", "sft-1", "sft-2"]
    (diff,) = json.loads((output / "sft-0-sasft-0-activation.json").read_text())["model_diffs"]
    assert any(row["contexts"] for row in diff["features"])
    assert all(layer["noise"].keys() == {"sft-1", "sft-2"} for layer in diff["layers"])
    (placebo,) = json.loads((output / "sft-0-sft-1-activation.json").read_text())["model_diffs"]
    assert all(layer["noise"].keys() == {"sft-2"} for layer in placebo["layers"])
    with (tmp_path / "results.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(rows)


def test_the_steps_of_coverage_follow_each_other(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("openai")
    run, output = recipe("coverage"), tmp_path / "coverage"

    def answer(path: str, body: dict[str, Any]) -> openai_server.Answer:
        shown = [line[2:] for line in body["messages"][-1]["content"].splitlines() if line.startswith("- ")]
        return 200, openai_server.chat(shown[0] if shown else "the cat sings there")

    model = ["--model", str(place / "sft-0"), "--sae", str(place / "SAE-tiny-L0_4"), "--layer", "1"]
    data = ["--seed-set", str(place / "seed.jsonl"), "--pool", str(place / "pool.jsonl"), "--pool-rows", "25"]
    sizes = ["--natural-rows", "15", "--pool-least", "1", "--targets", "6", "--per-target", "2", "--seeds", "0"]
    with openai_server.served(openai_server.FakeServer(answer)) as server:
        asking = ["--endpoint", server.url, "--served-model", "tiny"]
        files = ["--output", str(output), "--results", str(tmp_path / "results.csv")]
        rows = run.main([*model, *data, *sizes, *asking, *files])
        asked = len(server.asked)
        assert run.main([*model, *data, *sizes, *asking, *files]) == rows
        assert len(server.asked) == asked
    coverage = {row["arm"]: row["value"] for row in rows if row["metric"].startswith("coverage by")}
    assert coverage.keys() == {"explained", "shown", "random", "natural"}
    assert coverage["shown"] > coverage["random"]
    hits = {row["arm"]: row["value"] for row in rows if row["metric"] == "fires its own target"}
    assert hits["shown"] > hits["random"]
