"""`sae-posttrain data` end to end on files, in one process and in two."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import WIDTH, qwen3, word_tokenizer, write_saes

from sae_posttrain.cli import main
from sae_posttrain.cli.data import overlap as overlap_command
from sae_posttrain.cli.data import select as select_command
from sae_posttrain.cli.data.scores import scores_by_benchmark, scores_by_example
from sae_posttrain.discovery import firing_cache
from sae_posttrain.discovery.firing import FiringSets

PAIRS = ("long short", "long other", "short other")
WORDS = ["the", "cat", "sees", "a", "small", "house", "sings", "there", "and", "it", "runs"]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its SAEs, two benchmarks, and scores of four models."""
    folder = tmp_path_factory.mktemp("place")
    tokenizer = word_tokenizer(WORDS, "<pad>")
    tokenizer.save_pretrained(folder / "model")
    qwen3(len(tokenizer), num_hidden_layers=2).save_pretrained(folder / "model")
    write_saes(folder / "SAE-tiny-L0_4", range(2), d_sae=40, width=WIDTH)
    rng = np.random.default_rng(0)
    for name, number in (("long", 12), ("short", 3)):
        texts = [" ".join(rng.choice(WORDS, 5)) for _ in range(number)]
        write_rows(folder / f"{name}.jsonl", [{"text": text, "n": n} for n, text in enumerate(texts)])
    models = [f"m{n}" for n in range(4)]
    by_example = [
        {"model": model, "example": example, "score": int(example <= 2 * n + 1)}
        for n, model in enumerate(models)
        for example in range(1, 13)
    ]
    write_rows(folder / "by_example.jsonl", by_example)
    table = {"long": [1, 2, 3, 5], "short": [2, 4, 5, 9], "mmlu": [0, 1, 0, 1]}
    by_benchmark = [
        {"model": model, "benchmark": name, "score": scores[n]}
        for name, scores in table.items()
        for n, model in enumerate(models)
    ]
    write_rows(folder / "by_benchmark.jsonl", by_benchmark)
    return folder


def reading(place: Path, *more: str) -> list[str]:
    return ["--model", str(place / "model"), "--sae", str(place / "SAE-tiny-L0_4"), "--layer", "1", *more]


def sets(place: Path) -> list[str]:
    return [f"{name}={place / name}.jsonl" for name in ("long", "short")]


def test_redundancy_prints_a_row_for_each_benchmark(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "redundancy", *sets(place), "--scores", f"long={place / 'by_example.jsonl'}"]
    assert main([*command, *reading(place)]) == 0
    shown = capsys.readouterr().out
    assert "long" in shown
    assert "R(D), the mean of tau over all sizes, is" in shown
    assert "a random subset of 12 examples ranks models with Kendall tau 1.000" in shown
    assert main([*command, *reading(place, "--json")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["long"]["examples"] == len(found["long"]["coverage"]) == 12
    assert found["long"]["coverage"][-1] == 1.0
    assert "ranking_agreement" not in found["short"]


def test_overlap_says_what_covers_what(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = ["--scores", str(place / "by_benchmark.jsonl")]
    assert main(["data", "overlap", *sets(place), *scores, *reading(place)]) == 0
    assert "short: long covers most of its features" in (plain := capsys.readouterr().out)
    assert "The same for random parts of 1 examples of each" in plain
    assert "To keep, in this order" in plain
    assert f"correlation over models {np.corrcoef([1, 2, 3, 5], [2, 4, 5, 9])[0, 1]:.3f}" in plain
    assert main(["data", "overlap", *sets(place), *scores, "--control", "mmlu", *reading(place, "--json")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["covered"][0][0] == 1.0
    assert -1 <= found["correlations"]["long short"] <= 1
    assert sorted(step["name"] for step in found["order"]) == ["long", "short"]
    assert len(found["at_size"]["covered"]) == len(found["new"]) == 2


def test_three_benchmarks_say_how_overlap_and_scores_agree(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = {"long": [[0, 1, 2, 3], [4]], "short": [[0, 1]], "other": [[1, 9]]}
    sets_of = {name: FiringSets.of(rows, d_sae=10) for name, rows in planted.items()}
    monkeypatch.setattr(overlap_command, "collect", lambda *given: sets_of)
    rows = [json.loads(line) for line in (place / "by_benchmark.jsonl").read_text().splitlines()]
    rows += [{"model": f"m{n}", "benchmark": "other", "score": score} for n, score in enumerate([1, 3, 2, 6])]
    scores, output = write_rows(tmp_path / "scores.jsonl", rows), tmp_path / "overlap.json"
    command = ["data", "overlap", *sets(place), "other=other.jsonl", "--scores", str(scores)]
    assert main([*command, *reading(place), "--output", str(output)]) == 0
    assert "Overlap of features and correlation of scores, over pairs: Pearson" in capsys.readouterr().out
    (kept,) = json.loads(output.read_text())["benchmark_overlap"]
    by_hand = np.corrcoef([1, 0.5, 0.5], [kept["correlations"][pair] for pair in PAIRS])[0, 1]
    assert kept["agreement"]["pearson"] == pytest.approx(by_hand)
    assert kept["new"] == [pytest.approx(3 / 5), 0, 0.5]
    assert kept["at_size"]["covered"][1][1] is None  # one example has no two parts
    monkeypatch.setattr(overlap_command, "collect", lambda *given: dict.fromkeys(sets_of, sets_of["short"]))
    assert main([*command, *reading(place), "--output", str(output)]) == 0
    assert json.loads(output.read_text())["benchmark_overlap"][0]["agreement"]["pearson"] is None


def test_select_writes_whole_rows(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "chosen.jsonl"
    command = ["data", "select", str(place / "long.jsonl"), "--n", "4", "--output", str(output)]
    assert main([*command, *reading(place), "--curve", str(tmp_path / "curve.json")]) == 0
    chosen = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert len({row["n"] for row in chosen}) == 4
    shown = capsys.readouterr().out
    assert "4 of 12 rows" in shown
    assert "random rows of the same lengths fire" in shown
    (curve,) = json.loads((tmp_path / "curve.json").read_text())["benchmark_selection"]
    assert len(curve["chosen"]) == len(curve["random"]) == len(curve["matched"]) == 4
    assert curve["chosen"][-1] >= max(curve["random"][-1], curve["matched"][-1])


def test_lengths_are_those_of_an_adapters_base_model(place: Path, tmp_path: Path) -> None:
    """A folder of an adapter may hold no tokenizer."""
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(place / "model")}))
    source = write_rows(tmp_path / "texts.jsonl", [{"text": "the cat sees a house"}, {"text": ""}, {"text": "the"}])
    given = {"model": str(tmp_path), "source": str(source), "column": "text", "limit": None, "max_length": 3}
    assert select_command._lengths(argparse.Namespace(**given)) == [3, 1]


def test_a_limit_counts_rows_with_a_text(place: Path, tmp_path: Path) -> None:
    """Rows without a text are not read, so the chosen ones are found again after them."""
    rows = [{"text": "", "n": -1}, *map(json.loads, (place / "long.jsonl").read_text().splitlines())]
    source = write_rows(tmp_path / "gaps.jsonl", rows)
    command = ["data", "select", str(source), "--n", "3", "--limit", "3", "--output", str(tmp_path / "chosen.jsonl")]
    assert main([*command, *reading(place)]) == 0
    chosen = [json.loads(line)["n"] for line in (tmp_path / "chosen.jsonl").read_text().splitlines()]
    assert sorted(chosen) == [0, 1, 2]


def redundancy_of_many(place: Path, folder: Path) -> list[str]:
    """A command on texts that fill more than one file of a cache."""
    texts = [" ".join(WORDS[n % 7 : n % 7 + 4]) for n in range(firing_cache.SHARD_SIZE + 9)]
    many = write_rows(folder / "many.jsonl", [{"text": text} for text in texts])
    return ["data", "redundancy", f"many={many}", *reading(place, "--json")]


def by_one(place: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    assert main(redundancy_of_many(place, folder)) == 0
    return json.loads(capsys.readouterr().out)


def by_two(place: Path, folder: Path, *more: str) -> Any:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "-m", "sae_posttrain", *redundancy_of_many(place, folder), *more]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "ACCELERATE_USE_CPU": "true"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_two_processes_share_a_cache(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = tmp_path / "cache"
    assert by_one(place, tmp_path, capsys) == by_two(place, tmp_path, "--cache", str(cache))
    assert [path.name for path in (cache / "many").glob("*.safetensors")] == ["firing.safetensors"]


@pytest.mark.slow
def test_two_processes_need_no_cache(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert by_one(place, tmp_path, capsys) == by_two(place, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["redundancy", "long.jsonl"], "expected NAME=FILE"),
        (["overlap", "a=x.jsonl"], "Give at least two benchmarks"),
        (["overlap", "a=x.jsonl", "b=y.jsonl", "--control", "mmlu"], "give --scores too"),
        (["redundancy", "a=x.jsonl", "--scores", "b=y.jsonl"], "--scores names b"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "y.jsonl", [{"model": "m", "example": 1, "score": 1}])
    assert main(["data", *arguments, "--model", "none", "--sae", "none", "--layer", "1"]) == 2
    assert says in capsys.readouterr().err


def test_scores_of_another_number_of_examples_are_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"model": f"m{n}", "example": 1, "score": n} for n in range(2)]
    scores = write_rows(tmp_path / "scores.jsonl", rows)
    assert main(["data", "redundancy", *sets(place), "--scores", f"long={scores}", *reading(place)]) == 2
    assert "The scores are of 1 examples, but the benchmark has 12" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"model": "m", "example": 1, "score": 0}, "row 2: a second score of m for example 1"),
        ({"model": "m", "example": 2, "score": "nan"}, "row 2: the score nan of m is not a finite number"),
        ({"model": "m", "example": "two", "score": 1}, "expected the number of a row in the column example, got 'two'"),
    ],
)
def test_wrong_scores_are_refused(row: dict[str, Any], says: str, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "scores.jsonl", [{"model": "m", "example": 1, "score": 1}, row])
    with pytest.raises(ValueError, match=says):
        scores_by_example(str(file))


def test_scores_come_from_a_csv_file_too(place: Path, tmp_path: Path) -> None:
    """The values of .csv are texts: row 10 still comes after row 2."""
    for name in ("by_example", "by_benchmark"):
        rows = [json.loads(line) for line in (place / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in reversed(rows))]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    of_json = scores_by_example(str(place / "by_example.jsonl"))
    assert np.array_equal(scores_by_example(str(tmp_path / "by_example.csv")), of_json[::-1])
    sources = {"long": "", "short": ""}
    found = scores_by_benchmark(str(tmp_path / "by_benchmark.csv"), sources, "mmlu")
    assert found == {"long": [5, 3, 2, 1], "short": [9, 5, 4, 2], "mmlu": [1, 0, 1, 0]}


def test_scores_that_are_incomplete_are_named(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"model": "m0", "benchmark": "long", "score": 1}, {"model": "m1", "benchmark": "long", "score": "x"}]
    scores = write_rows(tmp_path / "scores.jsonl", rows)
    assert main(["data", "overlap", *sets(place), "--scores", str(scores), *reading(place)]) == 2
    assert "row 2: expected the columns model, benchmark and score" in capsys.readouterr().err
    scores = write_rows(tmp_path / "scores.jsonl", rows[:1])
    assert main(["data", "overlap", *sets(place), "--scores", str(scores), *reading(place)]) == 2
    assert "m0 has no score for short" in capsys.readouterr().err
