"""`data …` on odd inputs: what is refused, with which message, and what is never overwritten."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from word_features import SAES, write_word_features

from sae_posttrain.cli import main
from sae_posttrain.texts import load_rows

WORDS = ["cat", "dog", "axe"]
TARGETS = [{"layer": 1, "feature": n, "explanation": word} for n, word in enumerate(WORDS)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, SAEs whose first features are words, texts and targets."""
    folder = tmp_path_factory.mktemp("place")
    write_word_features(folder, ["the", "is"], WORDS)
    write(folder / "texts.jsonl", [{"text": f"the {word} is"} for word in ("cat", "dog")])
    write(folder / "same.jsonl", [{"text": "the cat dog axe is"}] * 3)
    write(folder / "short.jsonl", [{"text": "cat"}, {"text": "the"}])
    write(folder / "blank.jsonl", [{"text": " "}])
    write(folder / "nothing.jsonl", [])
    write(folder / "targets.jsonl", TARGETS)
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))


def data(*words: str) -> int:
    return main(["data", *words, *([] if words[0] == "synthesize" else ["--model", "model", "--sae", SAES])])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("redundancy a=blank.jsonl --layer 1", "blank.jsonl holds no non-empty text in column 'text'"),
        ("redundancy a=nothing.jsonl --layer 1", "nothing.jsonl holds no non-empty text"),
        ("redundancy a=short.jsonl --layer 1", "a: no feature fires on the last token of any of its 2 texts"),
        ("overlap a=texts.jsonl b=short.jsonl --layer 1", "b: no feature fires on the last token"),
        ("select short.jsonl --n 1 --output c.jsonl --layer 1", "short.jsonl: no feature fires on any of its 2 texts"),
        ("select texts.jsonl --n 3 --output c.jsonl --layer 1", "--n=3: expected 1 to 2"),
        ("redundancy ../a=texts.jsonl --cache firing --layer 1", "cannot be named '../a'"),
        ("redundancy a=texts.jsonl --output r.txt --layer 1", "r.txt: name the file to write, ending in .json"),
        ("select texts.jsonl --n 1 --output texts.jsonl --layer 1", "texts.jsonl is an input of this command"),
        ("select texts.jsonl --n 1 --output blank.jsonl/c.jsonl --layer 1", "part of its path is a file"),
        ("missing texts.jsonl --pool same.jsonl --output ./same.jsonl --layer 1", "same.jsonl is an input"),
        (
            "missing texts.jsonl --targets nothing.jsonl --output m.jsonl --layer 1",
            "empty file where nothing is missing",
        ),
        (
            "explain targets.jsonl --texts texts.jsonl --output e.jsonl --generator odd:silent",
            "explained none of the 2",
        ),
        ("synthesize targets.jsonl --output targets.jsonl --generator odd:silent", "targets.jsonl is an input"),
        ("synthesize targets.jsonl --output w.jsonl --generator odd:silent", "wrote none of the 12 examples"),
        (
            "synthesize targets.jsonl --min-relevance 5 --output w.jsonl --generator odd:silent",
            "row 1 has no relevance",
        ),
        ("verify texts.jsonl --output texts.jsonl --layer 1", "texts.jsonl is an input"),
        (
            "missing texts.jsonl --pool same.jsonl --min-relevance 5 --output m.jsonl --layer 1",
            "--min-relevance selects rows of --targets",
        ),
        (
            "coverage a=texts.jsonl --pool same.jsonl --min-relevance 5 --layer 1",
            "--min-relevance selects rows of --targets",
        ),
    ],
)
def test_what_cannot_be_done_is_told(words: str, says: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "odd.py").write_text("def silent(chats):\n    return [None for _ in chats]\n", encoding="utf-8")
    before = {path: path.read_bytes() for path in place.glob("*.jsonl")}
    assert data(*words.split()) == 2
    assert says in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_a_generator_in_the_current_folder_is_found(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An installed command does not search the current folder by itself."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(place))])
    (place / "here_made.py").write_text("def write(chats):\n    return ['the cat is'] * len(chats)\n", encoding="utf-8")
    command = ["synthesize", "targets.jsonl", "--no-answers", "--output", "own.jsonl", "--generator", "here_made:write"]
    assert data(*command, "--per-target", "1") == 0, capsys.readouterr().err
    assert [row["prompt"] for row in load_rows(place / "own.jsonl")] == ["the cat is"] * 3


@pytest.mark.parametrize(
    "words",
    [
        "redundancy a=texts.jsonl --layer 1 --limit 0",
        "missing texts.jsonl --targets targets.jsonl --output m.jsonl --layer 1 --weak 0",
        "coverage a=texts.jsonl --targets targets.jsonl --layer 1 --draws 0",
        "coverage a=texts.jsonl --targets targets.jsonl --layer 1 --budget -3",
        "coverage a=texts.jsonl --pool texts.jsonl --layer 1 --pool-least 0",
        "explain targets.jsonl --texts texts.jsonl --output e.jsonl --generator odd:silent --limit-targets 0",
        "synthesize targets.jsonl --output w.jsonl --generator odd:silent --limit-targets -2",
    ],
)
def test_a_count_is_at_least_one(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        data(*words.split())
    assert f"expected a whole number of at least 1, got '{words.split()[-1]}'" in capsys.readouterr().err


def test_a_compressed_file_with_an_odd_name_is_read(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with gzip.open(place / "猫 mit Leer.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write((place / "texts.jsonl").read_text(encoding="utf-8"))
    command = ["redundancy", "猫 =猫 mit Leer.jsonl.gz", "--layer", "1", "--cache", "new/firing"]
    for _ in range(2):
        assert data(*command, "--output", "new/deep/redundancy.json") == 0
        assert "猫" in capsys.readouterr().out
    (found,) = json.loads((place / "new/deep/redundancy.json").read_text(encoding="utf-8"))["benchmark_redundancy"]
    assert (found["name"], found["examples"]) == ("猫 ", 2)


def test_features_that_fire_everywhere_verify_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = [{"prompt": "the cat dog axe is", **target} for target in TARGETS]
    write(place / "written.jsonl", written)
    assert data("verify", "written.jsonl", "--output", "all.jsonl", "--layer", "1", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["share"], found["chance"], found["p_value"]) == (1, 1, 1)
    assert data("redundancy", "same=same.jsonl", "--layer", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["same"]["coverage"] == [1, 1, 1]
    assert data("missing", "same.jsonl", "--targets", "targets.jsonl", "--output", "none.jsonl", "--layer", "1") == 0
    assert "are missing, and 0 are fired by fewer than 3 examples. So the file is empty." in capsys.readouterr().out
    assert (place / "none.jsonl").read_bytes() == b""


def test_targets_of_a_csv_file_are_numbers(place: Path) -> None:
    (place / "targets.csv").write_text("layer,feature\n1,0\n1,2\n", encoding="utf-8")
    assert data("missing", "texts.jsonl", "--targets", "targets.csv", "--output", "m2.jsonl", "--layer", "1") == 0
    assert [(row["feature"], row["examples"]) for row in load_rows("m2.jsonl")] == [(2, 0), (0, 1)]


def test_a_data_set_that_fires_no_target_has_no_coverage(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["coverage", "short=short.jsonl", "texts=texts.jsonl", "--targets", "targets.jsonl", "--layer", "1"]
    assert data(*command, "--output", "coverage.json") == 0
    (found,) = json.loads(Path("coverage.json").read_text(encoding="utf-8"))["coverage_curves"]
    assert found["curves"]["short"]["expected"] == [0, 0, 0]
    assert found["at_budget"]["texts"] == pytest.approx(2 / 3)


@pytest.mark.slow
def test_a_killed_run_asks_only_what_is_missing(place: Path) -> None:
    (place / "mortal.py").write_text(
        "import os, signal, sys\n"
        "def write(chats):\n"
        "    for place, chat in enumerate(chats):\n"
        "        if place == 4 and os.environ.get('DIE'):\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        print('asked', file=sys.stderr)\n"
        "        yield f'text {place}'\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "sae_posttrain", "data", "synthesize", "targets.jsonl", "--per-target", "2"]
    command += ["--no-answers", "--output", "written-2.jsonl", "--generator", "mortal:write"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(place), *sys.path])}
    killed = subprocess.run(command, env={**env, "DIE": "1"}, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL
    assert not (place / "written-2.jsonl").exists()
    again = subprocess.run(command, env=env, capture_output=True, text=True)
    assert again.returncode == 0
    assert again.stderr.count("asked") == 2
    assert len(load_rows(place / "written-2.jsonl")) == 6
