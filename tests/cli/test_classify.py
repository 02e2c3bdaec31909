"""`discover class` and `classify` end to end on files, and their section of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from word_features import write_word_features

from sae_posttrain import FeatureSet
from sae_posttrain.cli import main

FILLER, ANIMALS, TOOLS = ["the", "big", "is", "and"], ["cat", "dog", "cow"], ["saw", "axe", "rake"]


def rows(seed: int, number: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    made = []
    for n in range(number):
        label, words = (("animal", ANIMALS), ("tool", TOOLS))[n % 2]
        filler = rng.permutation(FILLER).tolist()
        made.append({"text": " ".join([*filler[:2], rng.choice(words), *filler[2:]]), "label": label, "n": n})
    return made


def write_rows(path: Path, of_file: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in of_file), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    write_word_features(folder, FILLER, [*ANIMALS, *TOOLS])
    write_rows(folder / "train.jsonl", rows(0, 40))
    write_rows(folder / "test.jsonl", rows(1, 20))
    return folder


def discover(place: Path, output: Path, *more: str) -> int:
    command = ["discover", "class", "--rows", str(place / "train.jsonl"), "--targets", "animal", "--layers", "0", "1"]
    models = ["--model", str(place / "model"), "--sae", str(place / "SAE-tiny-L0_4")]
    return main([*command, *models, "--output", str(output), *more])


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    """A folder with the features, their results, and the cache."""
    folder = place / "run"
    test = ["--test", f"other={place / 'test.jsonl'}", "--draws", "2", "--cache", str(place / "cache")]
    assert discover(place, folder / "animal.safetensors", *test) == 0
    return folder


def test_features_and_results_are_written(run: Path) -> None:
    features = FeatureSet.load(run / "animal.safetensors")
    assert features.targets == ("animal",)
    (found,) = json.loads((run / "animal.classes.json").read_text())["class_discovery"]
    assert [(one["layer"], one["feature"]) for one in found["features"]] == [
        (layer.layer, feature) for layer in features.layers for feature in layer.ids
    ]
    (test,) = found["tests"]
    ways = {row["method"]: row for row in test["methods"]}
    assert list(ways)[:4] == ["OR-rule", "random features", "always yes", "difference of means"]
    assert ways["always yes"]["f1"] == pytest.approx(2 / 3)
    assert ways["OR-rule"]["f1"] > ways["random features"]["f1"]
    assert ways["difference of means"]["f1"] > 0.8
    assert [point["examples"] for point in test["curve"]][-1] == 40
    told = {token for one in found["features"] for token, _ in one["tokens"]}
    assert told
    assert told <= {*FILLER, *ANIMALS}  # the tokens are of held-out texts of the class


def test_a_second_call_reads_the_cache_and_prints_the_same(
    place: Path, run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    more = ["--cache", str(place / "cache"), "--no-dense", "--draws", "0"]
    assert discover(place, tmp_path / "again.safetensors", *more) == 0
    shown = capsys.readouterr().out
    assert "animal: F1" in shown
    assert "largest contrast by layer: 0:" in shown
    again, first = (FeatureSet.load(one) for one in (tmp_path / "again.safetensors", run / "animal.safetensors"))
    assert again.sha256 == first.sha256


def test_a_source_for_each_class_does_the_same(place: Path, run: Path, tmp_path: Path) -> None:
    for name in ("animal", "tool"):
        texts = [row["text"] for row in rows(0, 40) if row["label"] == name]
        (tmp_path / f"{name}.txt").write_text("\n".join(texts), encoding="utf-8")
    command = ["discover", "class", "--texts", *(f"{name}={tmp_path / name}.txt" for name in ("animal", "tool"))]
    models = ["--model", str(place / "model"), "--sae", str(place / "SAE-tiny-L0_4"), "--layers", "0", "1"]
    output = tmp_path / "found.safetensors"
    assert main([*command, *models, "--targets", "animal", "--output", str(output)]) == 0
    assert FeatureSet.load(output).sha256 == FeatureSet.load(run / "animal.safetensors").sha256


def classify(place: Path, run: Path, *more: str) -> int:
    command = ["classify", str(place / "test.jsonl"), "--features", str(run / "animal.safetensors")]
    return main([*command, "--model", str(place / "model"), *more])


def test_classify_writes_rows_with_their_evidence(
    place: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sae, output = ["--sae", str(place / "SAE-tiny-L0_4")], tmp_path / "verdicts.jsonl"
    assert classify(place, run, *sae, "--output", str(output)) == 0
    shown = capsys.readouterr().out
    verdicts = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["n"] for row in verdicts] == list(range(20))
    (found,) = json.loads((run / "animal.classes.json").read_text())["class_discovery"]
    f1 = found["tests"][0]["methods"][0]["f1"]
    assert f"animal: F1 {f1:.3f}" in shown  # the test that `discover class` made on the same rows
    assert f"animal: {sum(row['classes'] == ['animal'] for row in verdicts)} of 20 texts" in shown
    for row in verdicts:
        assert row["classes"] == sorted({one["target"] for one in row["evidence"]})
        assert all(row["text"][one["start"] : one["end"]] == one["token"] for one in row["evidence"])


def test_classify_does_not_replace_what_it_reads(place: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["classify", str(place / "test.jsonl"), "--model", str(place / "model")]
    command += ["--features", str(run / "animal.safetensors")]
    for name in (place / "test.jsonl", run / "animal.safetensors"):
        before = name.read_bytes()
        assert main([*command, "--output", str(name)]) == 2
        assert "is an input of this command" in capsys.readouterr().err
        assert name.read_bytes() == before


def test_without_an_sae_the_thresholds_decide(place: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert classify(place, run) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("row ") for line in lines) == 20
    assert any(": layer " in line and " at '" in line for line in lines)
    assert classify(place, run, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["results"]["animal"]["total"] == 20


def test_the_report_shows_the_classes(place: Path, run: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert main(["report", str(run), "--output", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for shown in ("Classes of texts", "Learning curve", "difference of means", "On other", "may be offensive"):
        assert shown in page
    assert "Chosen by firing rate" not in page  # the features stand under their class, and only there
    assert "Not on this page" not in page
    of_features = [
        "inspect",
        "contexts",
        "--features",
        str(run / "animal.safetensors"),
        "--texts",
        f"en={place / 'test.jsonl'}",
    ]
    contexts = run / "contexts.json"
    assert main([*of_features, "--model", str(place / "model"), "--output", str(contexts)]) == 0
    assert main(["report", str(run), "--output", str(tmp_path / "page.html")]) == 0
    contexts.unlink()
    assert "Chosen by firing rate" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--label-column", "kind"], "no label in column 'kind'"),
        (["--column", "body"], "no text in column 'body'"),
        (["--targets", "plant"], "No texts of plant"),
        (["--test", "other.jsonl"], "expected NAME=FILE"),
    ],
)
def test_mistakes_say_what_to_change(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], says: str
) -> None:
    assert discover(place, tmp_path / "x.safetensors", *more) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (None, "row 3: no label in column 'label'"),
        (["tool"], "row 3: column 'label' holds a list; expected one label per row"),
        ({"is": "tool"}, "holds a dict"),
    ],
)
def test_rows_without_one_label_are_refused(
    label: Any, words: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_file = [{**row, "label": label} if row["n"] == 2 else row for row in rows(0, 20)]
    source = write_rows(tmp_path / "rows.jsonl", of_file)
    assert discover(place, tmp_path / "f.safetensors", "--rows", str(source)) == 2
    assert words in capsys.readouterr().err


def test_copies_and_known_texts_are_named(place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    different = {row["text"]: row for row in rows(2, 60)}
    source = write_rows(tmp_path / "rows.jsonl", [{**row, "label": int(row["n"] % 2)} for row in different.values()])
    more = ["--rows", str(source), "--targets", "0", "--draws", "0", "--no-dense"]
    assert discover(place, tmp_path / "f.safetensors", *more) == 0
    assert FeatureSet.load(tmp_path / "f.safetensors").targets == ("0",)
    assert "copies" not in caplog.text
    twice = [row for row in rows(0, 40) for _ in range(2)]
    count = len({row["text"] for row in twice})
    of_twice = write_rows(tmp_path / "twice.jsonl", twice)
    more = ["--rows", str(of_twice), "--test", f"same={of_twice}", "--draws", "0", "--no-dense"]
    assert discover(place, tmp_path / "f.safetensors", *more) == 0
    assert f"{80 - count} of 80 texts are copies of others" in caplog.text
    assert "80 of the 80 texts of the test same were also used to find the features" in caplog.text
