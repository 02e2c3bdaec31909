"""The recipes of classes, benchmarks and diagnoses as shipped, on models and SAEs made here."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scripts import load_script
from word_features import write_word_features

from sae_posttrain import collect_firing, load_sae
from sae_posttrain.artefacts import DIAGNOSIS
from sae_posttrain.cli import main
from sae_posttrain.discovery.firing import FiringSets
from sae_posttrain.discovery.pooled import mean_residuals
from sae_posttrain.metrics.detection import Detection
from sae_posttrain.residual import read_residuals

RECIPES = Path(__file__).parents[2] / "recipes"
FILLER, CLEAN, TOXIC = ["the", "big", "is", "and"], ["cat", "dog", "cow"], ["saw", "axe", "rake"]


def recipe(name: str) -> ModuleType:
    return load_script(RECIPES / name / "run.py", f"{name}_recipe")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, SAEs of two layers whose first features are words, and labelled texts in two sets."""
    folder = tmp_path_factory.mktemp("place")
    write_word_features(folder, FILLER, [*CLEAN, *TOXIC])
    for seed, (name, labels) in enumerate({"one": ("toxic", "clean"), "two": ("Toxic", "Not Toxic")}.items()):
        rng = np.random.default_rng(seed)
        rows = [
            {"text": " ".join([*rng.choice(FILLER, 2), rng.choice(vocabulary)]), "label": label}
            for _ in range(20)
            for label, vocabulary in zip(labels, (TOXIC, CLEAN), strict=True)
        ]
        write(folder / f"{name}.jsonl", rows)
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def results(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def reading(place: Path) -> list[str]:
    return ["run.py", "--model", str(place / "model"), "--sae", str(place / "SAE-tiny-L0_4")]


def test_classes_are_found_and_carried_over(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(RECIPES / "classify"))
    run = recipe("classify")
    reading = sys.modules["reading"]
    sets = ["--sets", f"one={place / 'one.jsonl'}", f"two={place / 'two.jsonl'}", "--texts", "40", "--seeds", "0"]
    of_layers = ["run.py", "--model", str(place / "model"), "--sae", str(place / "SAE-tiny-L0_4"), f"{twin(place)}:1"]
    command = [*of_layers, "--layers", "0", "1", *sets, "--output_dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    run.main()
    rows = results(tmp_path / "results.csv")
    assert {row["sae"] for row in rows} == {"SAE-tiny-L0_4", "SAE-twin-L0_4"}
    f1 = {(row["train"], row["test"], row["method"]): float(row["value"]) for row in rows if row["metric"] == "f1"}
    assert {(train, test) for train, test, _ in f1} == {(a, b) for a in ("one", "two") for b in ("one", "two")}
    assert f1["one", "two", "words (TF-IDF, logistic regression)"] == 1.0  # a set's toxic words are in no clean text
    assert f1["one", "two", "always yes"] == pytest.approx(2 / 3, abs=0.01)
    with np.load(tmp_path / "one" / "000000.npz") as kept:
        texts = [text for text, _ in reading.sample(reading.load_rows(place / "one.jsonl"), 40)]
        model, tokenizer = reading.load(str(place / "model"))
        saes = str(place / "SAE-tiny-L0_4")
        fires = collect_firing(model, tokenizer, saes, texts, layers=[1], progress=False)[1]
        for name in ("SAE-tiny-L0_4", "SAE-twin-L0_4"):
            assert np.array_equal(kept[f"features-{name}-1"], fires.features)
        peak = (
            load_sae(saes, 1).encode(read_residuals(model, [1], tokenizer(texts[:1])["input_ids"])[0][1][0, 1:]).amax(0)
        )
        assert kept["peaks-SAE-tiny-L0_4-1"][: len(fires[0])] == pytest.approx(peak[fires[0]].numpy(), rel=1e-3)
        means = mean_residuals(model, tokenizer, texts, layers=[1], progress=False)[1]
        assert kept["mean-1"] == pytest.approx(means, abs=1e-5)
    monkeypatch.setattr(reading, "load", None)  # what was read is kept: a second call opens no model
    run.main()
    again = results(tmp_path / "results.csv")
    assert again[len(rows) :] == rows
    write(tmp_path / "others.jsonl", [{"text": "the cow is", "label": "clean"}, {"text": "the axe", "label": "toxic"}])
    changed = [part.replace(str(place / "one.jsonl"), str(tmp_path / "others.jsonl")) for part in command]
    monkeypatch.setattr(sys, "argv", changed)
    with pytest.raises(ValueError, match="of other texts"):
        run.main()


def twin(place: Path) -> Path:
    """The same SAEs under another name."""
    copy = place / "SAE-twin-L0_4"
    if not copy.exists():
        shutil.copytree(place / "SAE-tiny-L0_4", copy)
    return copy


def test_the_limits_of_a_rule_are_those_of_trying_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scipy")
    monkeypatch.syspath_prepend(str(RECIPES / "classify"))
    limits = load_script(RECIPES / "classify" / "limits.py", "classify_limits")
    reading = sys.modules["reading"]
    rng = np.random.default_rng(0)
    positive_E = rng.random(60) < 0.5
    peak_EK = np.where(rng.random((60, 12)) < 0.4, rng.integers(1, 5, (60, 12)), 0).astype(np.float32)
    peak_EK[positive_E, 3] += 2
    rows = [row.nonzero()[0] for row in peak_EK]
    sets = FiringSets.of(rows, d_sae=12, layer=1)
    peaks = np.concatenate([peak_EK[e][row] for e, row in enumerate(rows)])
    read = reading.ReadSet([""] * 60, positive_E, {1: sets}, {1: peaks}, {})
    held_out_E = np.arange(60) % 5 == 0
    assert np.array_equal(limits.peaks_of(read, 1).toarray(), peak_EK)
    part = read.take(~held_out_E)
    assert np.array_equal(limits.peaks_of(part, 1).toarray(), peak_EK[~held_out_E])
    own_EK, own_E = peak_EK[~held_out_E], positive_E[~held_out_E]
    tried = {
        (s, t): (own_EK[own_E, s] > t).mean() - (own_EK[~own_E, s] > t).mean() for s in range(12) for t in range(8)
    }
    said_E = limits.with_threshold(read, held_out_E).detects(part)
    assert said_E[own_E].mean() - said_E[~own_E].mean() == pytest.approx(max(tried.values()))
    found, _, size = limits.hindsight(read, held_out_E, read)
    ranked = limits.rank_features(read.firing, positive_E, ~held_out_E)[1]
    accuracy = {
        k: Detection.of((peak_EK[:, [one.feature for one in ranked[:k]]] > 0).any(1), positive_E).balanced_accuracy
        for k in (1, 2, 5, 10)
    }
    assert found.balanced_accuracy == pytest.approx(max(accuracy.values())) == pytest.approx(accuracy[size])


def test_benchmarks_are_compared_and_selected_from(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = ["--sets", f"one={place / 'one.jsonl'}", f"part={tmp_path / 'part.jsonl'}", "--n", "10"]
    rows = [json.loads(line) for line in (place / "one.jsonl").read_text(encoding="utf-8").splitlines()]
    write(tmp_path / "part.jsonl", [row for row in rows if row["label"] == "clean"])
    output = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", [*reading(place), "--layer", "1", *sets, "--output_dir", str(output)])
    recipe("benchmarks").main()
    found = {
        (row["metric"], row["benchmark"], row["other"], row["setting"]): row["value"]
        for row in results(output / "results.csv")
    }
    assert float(found["covered", "part", "one", "whole"]) == 1.0
    assert float(found["covered", "one", "part", "whole"]) < 1.0
    assert float(found["features added", "part", "", "place 2"]) == 0.0
    assert float(found["examples", "one", "", "whole"]) == 40
    assert float(found["coverage", "one", "chosen", "10 rows"]) >= float(found["coverage", "one", "random", "10 rows"])
    assert len((output / "chosen.jsonl").read_text(encoding="utf-8").splitlines()) == 10
    assert "<svg" in (output / "report.html").read_text(encoding="utf-8")


def test_a_diagnosis_is_made_once_and_counted(place: Path, tmp_path: Path) -> None:
    run, output = recipe("diagnose"), tmp_path / "diagnosis"
    fine = [{"prompt": "the big", "response": f"the {word} is big", "language": "en"} for word in CLEAN]
    loops = [{"prompt": f"the {word}", "response": " ".join([word] * 50), "language": "en"} for word in CLEAN]
    late = {"prompt": "the", "response": f"{'x' * 150} {' '.join(['dog'] * 60)}", "language": "en"}
    write(tmp_path / "answers.jsonl", [late, *loops, *fine])
    measured = tmp_path / "cases.jsonl"
    assert (
        main(["measure", "repetition", "--responses", str(tmp_path / "answers.jsonl"), "--output", str(measured)]) == 0
    )
    command = [*reading(place)[1:], "--layers", "1", "--cases", str(measured), "--number", "2"]
    command += ["--max_new_tokens", "50", "--output_dir", str(output), "--controls", "2", "--test", "each"]
    args, passed_on = run.parse(command)
    assert passed_on == ["--controls", "2", "--test", "each"]
    chosen = run.choose_cases(run.load_rows(measured), args)
    assert [row["response"] for row in chosen] == [row["response"] for row in (*loops[:2], *fine[:2])]
    run.main(command)
    rows = results(output / "results.csv")
    diagnosis = json.loads((output / "diagnosis.json").read_text(encoding="utf-8"))[DIAGNOSIS]
    assert diagnosis["good"] == 2
    assert {row["metric"] for row in rows} >= {
        "unchanged",
        "ablated",
        "random directions ablated",
        "difference of means ablated",
        "first token left",
    }
    (first, *_) = diagnosis["proof"]["trials"]
    ablated = next(row for row in rows if row["metric"] == "ablated")
    counted = first["answers"]["ablated"]
    assert float(ablated["value"]) == counted["hits"] / counted["total"]
    assert float(ablated["corrected_p"]) == first["corrected_p"]
    written = (output / "diagnosis.json").stat().st_mtime_ns
    run.main(command)
    assert (output / "diagnosis.json").stat().st_mtime_ns == written
    assert results(output / "results.csv")[len(rows) :] == rows
    for changed in (["--top", "1"], ["--controls", "3"], ["--number", "1"]):
        with pytest.raises(SystemExit, match="was made with other options or other cases"):
            run.main([*command, *changed])
    assert (output / "diagnosis.json").stat().st_mtime_ns == written


def test_switches_are_diagnosed_by_their_probability(place: Path, tmp_path: Path) -> None:
    """A model that knows one Chinese word; the answers that hold it are the bad cases."""
    run, output = recipe("diagnose"), tmp_path / "diagnosis"
    write_word_features(tmp_path, FILLER, ["猫", *CLEAN])
    bad = [{"prompt": f"the {word}", "response": f"is {word} 猫 big", "language": "en"} for word in CLEAN]
    fine = [{"prompt": f"the {word}", "response": f"is {word} big", "language": "en"} for word in CLEAN]
    first_word = {"prompt": "the big", "response": "猫 is big", "language": "en"}
    answers, measured = write(tmp_path / "answers.jsonl", [first_word, *bad, *fine]), tmp_path / "cases.jsonl"
    assert main(["measure", "code-switching", "--responses", str(answers), "--output", str(measured)]) == 0
    command = ["--to", "zh", *reading(tmp_path)[1:], "--layers", "0", "1", "--top", "1", "--cases", str(measured)]
    run.main([*command, "--number", "3", "--controls", "5", "--output_dir", str(output), "--no-chat"])
    diagnosis = json.loads((output / "diagnosis.json").read_text(encoding="utf-8"))[DIAGNOSIS]
    assert [case["response"] for case in diagnosis["cases"]] == [row["response"] for row in bad]
    assert (diagnosis["fault"], diagnosis["proof"]["by"], diagnosis["proof"]["before"]) == ("zh", "probability", None)
    metrics = {row["metric"]: float(row["value"]) for row in results(output / "results.csv")}
    assert metrics["first token left"] == diagnosis["proof"]["trials"][-1]["token"]["left"]
    assert "first token, added, times" in metrics
    assert "has a mean probability of" in (output / "report.html").read_text(encoding="utf-8")
