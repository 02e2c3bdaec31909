"""Messages of a command speak of its options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from measure_cases import RESPONSES, write

from sae_posttrain.cli import main, sft
from sae_posttrain.cli.wording import in_options


def said(capsys: pytest.CaptureFixture[str], *arguments: Any) -> Any:
    assert main([str(part) for part in arguments]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperature", "-1"], "error: --temperature must be 0"),
        (["--top-p", "2"], "error: --top-p must be above 0"),
        (["--max-new-tokens", "0"], "error: --max-new-tokens must be at least 1, got 0"),
        (["--samples", "0"], "error: --samples must be at least 1"),
        (["--batch-size", "0"], "error: --batch-size must be at least 1"),
    ],
)
def test_sampling(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: Any, message: str) -> None:
    path = write(tmp_path / "a.jsonl", RESPONSES)
    assert message in said(capsys, "measure", "code-switching", "--model", "none", "--prompts", path, *options)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("code-switching", ["--to", "klingon"], "error: --to: unknown language 'klingon'"),
        ("code-switching", ["--phrases", "xx"], "error: --phrases: unknown language 'xx'"),
        ("code-switching", ["--confidence", "3"], "error: --confidence must lie between 0 and 1"),
        ("code-switching", ["--by", "zzz"], "error: --by: response 1 has no column 'zzz'"),
        ("repetition", ["--min-repeats", "1"], "error: --min-repeats must be at least"),
        ("repetition", ["--min-length", "0"], "error: --min-length must be at least 1"),
        ("language-confusion", ["--among", "xx"], "error: --among: unknown language 'xx'"),
    ],
)
def test_counting(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, options: Any, message: str) -> None:
    path = write(tmp_path / "a.jsonl", RESPONSES)
    assert message in said(capsys, "measure", kind, "--responses", path, *options)


def test_the_language_of_all_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.jsonl", [{"response": "Fine."}])
    message = said(capsys, "measure", "code-switching", "--responses", path, "--language", "xx")
    assert "error: --language: unknown language 'xx'" in message


def test_a_language_of_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("a\n", encoding="utf-8")
    arguments = ["--model", "m", "--sae", "s", "--layers", 1, "--output", tmp_path / "f.safetensors"]
    message = said(capsys, "discover", "language", "--texts", f"xx={tmp_path}/a.txt", *arguments)
    assert "error: --texts 'xx=" in message
    assert "unknown language 'xx'" in message


@pytest.mark.parametrize(
    ("message", "worded"),
    [
        ("top=0: at least one feature.", "--top=0: at least one feature."),
        ("batch_size=0, max_length=5: expected at least 1.", "--batch-size=0, --max-length=5: expected at least 1."),
        ("raise max_length, or lower what loop_settings ask for", "raise --max-length, or lower what --min-repeats"),
        ("limit must be at least 1, got 0", "--limit must be at least 1, got 0"),
        ("--batch-size 0 and 'batch_size' and a.batch_size", "--batch-size 0 and 'batch_size' and a.batch_size"),
        ("at the top of the limit", "at the top of the limit"),
        ("give plain texts, with chat=False", "give plain texts, with --no-chat"),
        ("as plain texts; give chat=True.", "as plain texts; give --chat."),
    ],
)
def test_names_become_options(message: str, worded: Any) -> None:
    args = argparse.Namespace(top=1, batch_size=8, max_length=9, limit=None, rest=[], traceback=False, run=None)
    assert in_options(message, args).startswith(worded)


@pytest.mark.parametrize(
    ("message", "worded"),
    [
        ("weight=-1: expected a finite number", "sasft_weight=-1: expected a finite number"),
        ("refresh_baselines has no effect with baseline='zero'", "sasft_refresh_baselines has no effect"),
        ("No features (SASFTConfig: features)", "No features (settings: features)"),
        ("or set the weight to 0", "or set the weight to 0"),
        ("token_weight=-1: expected", "token_weight=-1: expected"),
    ],
)
def test_training_has_settings(message: str, worded: Any) -> None:
    assert in_options(message, argparse.Namespace(settings=sft.SETTINGS, rest=[])).startswith(worded)
