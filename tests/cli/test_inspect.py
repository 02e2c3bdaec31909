"""`sae-posttrain inspect` on files: what it writes is what the report reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_models import BLOCKS, WIDTH, qwen3, word_tokenizer

from sae_posttrain import FeatureSet
from sae_posttrain.cli import main
from sae_posttrain.feature_set import LayerFeatures, Provenance
from sae_posttrain.report import read_runs

ROWS = [
    {"prompt": "tell me", "language": "en", "response": "the cat sees 猫 there"},
    {"prompt": [{"role": "user", "content": "tell me"}], "language": "en", "response": "a small 房子 sings"},
    {"prompt": "tell me", "language": "en", "response": "the cat sings"},
]
TEXTS = {"en": "the cat sees\na small cat sings there", "zh": "猫 房子\n房子 猫 猫"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model before and after, features, texts and responses."""
    folder = tmp_path_factory.mktemp("place")
    tokenizer = word_tokenizer([row["response"] + " tell me" for row in ROWS], "<pad>", "<eos>")
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }} {% endfor %}"
    for seed, name in enumerate(("base", "tuned")):
        tokenizer.save_pretrained(folder / name)
        qwen3(len(tokenizer), seed=seed, initializer_range=0.3).save_pretrained(folder / name)
    torch.manual_seed(5)
    vectors = {name: torch.randn(2, WIDTH) for name in ("encoder", "direction")}
    numbers = {name: torch.ones(2) for name in ("bias", "score", "typical")}
    layer = LayerFeatures(1, (7, 8), ("zh", "zh"), **vectors, **numbers, baselines={}, activations={})
    FeatureSet((layer,), Provenance("base", WIDTH, BLOCKS, "sae", {}, "", "random")).save(folder / "f.safetensors")
    for code, text in TEXTS.items():
        (folder / f"{code}.txt").write_text(text, encoding="utf-8")
    rows = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    (folder / "answers.jsonl").write_text(rows, encoding="utf-8")
    return folder


def switches(place: Path, output: Path, *more: str) -> list[str]:
    models = [str(place / name) for name in ("base", "tuned")]
    files = ["--responses", str(place / "answers.jsonl"), "--features", str(place / "f.safetensors")]
    return ["inspect", "switches", "--models", *models, *files, "--output", str(output), *more]


def contexts(place: Path, output: Path, *more: str) -> list[str]:
    texts = [f"{code}={place / code}.txt" for code in TEXTS]
    files = ["--model", str(place / "base"), "--features", str(place / "f.safetensors"), "--texts", *texts]
    return ["inspect", "contexts", *files, "--output", str(output), *more]


def test_the_report_finds_what_is_written(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "deep" / "run"
    assert main(switches(place, run / "trace.json", "--before", "3", "--after", "2")) == 0
    assert main(contexts(place, run / "passages.json", "--top", "2", "--around", "1")) == 0
    printed = capsys.readouterr().out
    assert f"Wrote {run / 'trace.json'}" in printed
    assert f"Wrote {run / 'passages.json'}" in printed
    (found,) = read_runs([run])
    before, after = found.traces
    assert (before["model"], after["model"]) == ("base", "tuned")
    assert (before["target"], before["switches"], before["ordinary"]) == ("zh", 2, 1)
    assert before["offsets"] == [-3, -2, -1, 0, 1, 2]
    assert before["layers"] != after["layers"]
    assert [len(one["contexts"]) for one in found.contexts] == [2, 2]
    assert all(len(context["pieces"]) <= 3 for one in found.contexts for context in one["contexts"])


@pytest.mark.parametrize(
    ("kind", "extra", "message"),
    [
        (switches, ["--output", "trace.txt"], "ending in .json"),
        (switches, ["--output", "."], "ending in .json"),
        (switches, ["--target", "ko"], "None of the 3 responses switches into ko"),
        (switches, ["--target", "klingon"], "klingon"),
        (switches, ["--features", "nowhere.safetensors"], "no feature set at nowhere.safetensors"),
        (contexts, ["--texts", "zh.txt"], "expected NAME=FILE"),
        (contexts, ["--top", "0"], "--top=0"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_code_2(
    kind: str, extra: list[str], message: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*kind(place, tmp_path / "out.json"), *extra]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_rows_without_a_language_are_named(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text('{"response": "x"}\n', encoding="utf-8")
    assert main([*switches(place, tmp_path / "t.json"), "--responses", str(tmp_path / "a.jsonl")]) == 2
    assert "a.jsonl, row 1: there is no 'language'" in capsys.readouterr().err
