"""The recipes of model diffs and of coverage as shipped, on a model and SAEs made here and a generator on loopback."""

from __future__ import annotations

import csv
import json
import sys
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
from sae_posttrain.texts import load_rows

RECIPES = Path(__file__).parents[2] / "recipes"
PARTS = ("seed", "pool", "natural")
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
    for other in (["--max-length", "5"], ["--per-language", "4"]):
        with pytest.raises(ValueError, match=r"sft-0\.npz was read from another run, SAE or layer, or on other texts"):
            run.main([*runs, *sources, *files, *other, "--results", str(tmp_path / "results.csv")])


def answer_with_a_shown_text(path: str, body: dict[str, Any]) -> openai_server.Answer:
    """Rewrites name no text, so that they differ from the prompts."""
    content = body["messages"][-1]["content"]
    shown = [line[2:] for line in content.splitlines() if line.startswith("- ")]
    return 200, openai_server.chat(shown[0] if shown else "the cat sings there")


@pytest.fixture
def coverage(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RECIPES / "coverage"))
    return recipe("coverage")


def of_coverage(place: Path, output: Path, url: str, *more: str) -> list[str]:
    words = ["--model", str(place / "sft-0"), "--sae", str(place / "SAE-tiny-L0_4"), "--layer", "1"]
    words += ["--seed-set", str(place / "seed.jsonl"), "--pool", str(place / "pool.jsonl"), "--pool-rows", "25"]
    words += ["--natural-rows", "15", "--pool-least", "1", "--targets", "6", "--seeds", "0"]
    words += ["--instructions", str(RECIPES / "coverage" / "mathematics.yaml"), "--task", "cats"]
    files = ["--output", str(output), "--results", str(output.with_suffix(".csv"))]
    return [*words, "--endpoint", url, "--served-model", "tiny", *files, *more]


def test_the_steps_of_coverage_follow_each_other(coverage: ModuleType, place: Path, tmp_path: Path) -> None:
    pytest.importorskip("openai")
    output = tmp_path / "coverage"
    with openai_server.served(openai_server.FakeServer(answer_with_a_shown_text)) as server:
        words = of_coverage(place, output, server.url, "--per-target", "1")
        rows = coverage.main(words)
        asked = len(server.asked)
        assert coverage.main([*words, "--concurrency", "2"]) == rows  # how fast the server is asked changes nothing
        assert len(server.asked) == asked
        with pytest.raises(ValueError, match="--per-target was 1, now 2"):
            coverage.main([*words, "--per-target", "2"])
        with pytest.raises(ValueError, match=r"natural\.jsonl was made from other data"):
            coverage.main([*words, "--natural-rows", "14"])
        assert len(server.asked) == asked
    by_budget = {row["arm"]: row["value"] for row in rows if row["metric"].startswith("coverage by")}
    assert by_budget.keys() == {"explained", "shown", "random", "natural"}
    assert by_budget["shown"] > by_budget["random"]
    hits = {row["arm"]: row["value"] for row in rows if row["metric"] == "fires its own target, plain prompts"}
    assert hits["shown"] > hits["random"]
    # What the server copies out of a shown passage counts as written, but not in the share without copies.
    originals = {row["arm"]: row["n"] for row in rows if row["metric"] == "fires its own target, no copies"}
    assert originals["shown"] == 6 < originals["random"] == 12


def test_a_step_is_not_reused_for_an_input_that_changed(
    coverage: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, source, output = sys.modules["recorded_steps"], tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("1")
    ran: list[list[str]] = []

    def run(words: list[str]) -> int:
        ran.append(words)
        output.write_text("done")
        print("told")
        return 0

    monkeypatch.setattr(steps, "command", run)
    words = ["data", "verify", str(source), "--output", str(output), "--json", "--cache", "a"]
    assert steps.run_once(output, words) == steps.run_once(output, [*words[:-1], "b"]) == "told\n"
    assert len(ran) == 1
    source.write_text("2")
    with pytest.raises(ValueError, match=r"out\.jsonl was made by another run: command was .*in\.jsonl \(sha256"):
        steps.run_once(output, words)
    output.unlink()
    steps.run_once(output, words)
    assert len(ran) == 2
    with pytest.raises(ValueError, match="--json was given, now not given"):
        steps.run_once(output, [word for word in words if word != "--json"])


def test_a_topic_divides_a_corpus(coverage: ModuleType, tmp_path: Path) -> None:
    corpus = [{"text": f"word {n}" if n % 3 else "short", "source": "ab"[n % 2]} for n in range(12)]
    write(tmp_path / "corpus.jsonl", corpus)
    files = ["--seed-set", str(tmp_path / "corpus.jsonl"), "--pool", str(tmp_path / "corpus.jsonl")]
    sizes = ["--topic", "source=b", "--least-words", "2", "--pool-rows", "3", "--natural-rows", "9"]
    places = ["--output", str(tmp_path), "--results", str(tmp_path / "r.csv")]
    model = ["--model", "m", "--sae", "s", "--layer", "1", "--endpoint", "http://127.0.0.1:1/v1"]
    coverage.split(coverage.parse([*model, "--served-model", "x", *files, *sizes, *places]))
    found = {name: [row["text"] for row in load_rows(tmp_path / f"{name}.jsonl")] for name in PARTS}
    assert set(found["seed"]) == {"word 2", "word 4", "word 8", "word 10"}
    assert {*found["pool"], *found["natural"]} == {"word 1", "word 5", "word 7", "word 11"}
    assert (len(found["pool"]), len(found["natural"])) == (3, 1)


def test_a_classifier_learns_from_what_was_written(
    coverage: ModuleType, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setitem(sys.modules, "run", coverage)
    script = load_script(RECIPES / "coverage" / "classifier.py", "coverage_classifier")
    rng = np.random.default_rng(0)
    kinds = {"a": WORDS[:5], "b": WORDS[5:]}
    corpus = [
        {"text": " ".join(rng.choice(words, 6)), "source": name} for name, words in kinds.items() for _ in "x" * 60
    ]
    write(tmp_path / "corpus.jsonl", corpus)
    real = coverage.texts_of(str(tmp_path / "corpus.jsonl"), "source=a", 1)
    for name, texts in {"seed": ["x"] * 4, "pool": real[:5], "natural": real[5:15]}.items():
        write(tmp_path / f"{name}.jsonl", [{"text": text} for text in texts])
    write(tmp_path / "explained.jsonl", [{"layer": 1, "feature": 3}])
    for arm in coverage.ARMS:
        write(tmp_path / f"{arm}-0.jsonl", [{"prompt": text} for text in real[5:11]])
        write(tmp_path / f"{arm}-0-kept.jsonl", [{"prompt": text} for text in real[5:7]])
    words = ["--coverage", str(tmp_path), "--corpus", str(tmp_path / "corpus.jsonl"), "--topic", "source=a"]
    words += ["--model", str(place / "sft-0"), "--sae", str(place / "SAE-tiny-L0_4"), "--layer", "1", "--seeds", "0"]
    words += ["--start", "2", "--test", "20", "--results", str(tmp_path / "r.csv")]
    rows = script.main(words)
    added = {(row["arm"], row["budget"]): row["added"] for row in rows}
    assert added == {
        ("none", "all"): 0,
        **{(arm, budget): n for arm in (*coverage.ARMS, "natural") for budget, n in (("all", 6), ("kept", 2))},
    }
    accuracy = {(row["arm"], row["budget"]): row["value"] for row in rows if row["metric"] == "accuracy"}
    assert accuracy["shown", "all"] > 0.8
    assert sum(row["n"] for row in rows[:4] if row["metric"].startswith("recall")) == 20
    with pytest.raises(ValueError, match="lower --test"):
        script.main([*words, "--test", "50"])
