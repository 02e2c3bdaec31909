"""`measure code-switching --expected`: given responses, a model's own, and the comparison of two models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from measure_cases import as_json, measured, write
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_posttrain.expected import Setting, switch_probabilities
from sae_posttrain.texts import load_rows

ROWS = [
    {"prompt": "abc", "language": "en", "response": "def", "finish_reason": "stop"},
    {"prompt": "fed", "language": "en", "response": "a是b", "topic": "x"},
    {"prompt": "cc", "language": "zh", "response": "ab"},
]
QUIET = ["--expected", "--top-p", 1]


@pytest.fixture
def given(tmp_path: Path) -> Any:
    return write(tmp_path / "given.jsonl", ROWS)


@pytest.fixture
def quieter(model_folder: Any, tmp_path: Path) -> Any:
    """The model, less inclined to write 是."""
    model, tokenizer = (kind.from_pretrained(model_folder) for kind in (AutoModelForCausalLM, AutoTokenizer))
    head = torch.nn.Linear(16, len(tokenizer), bias=False)
    head.weight.data.copy_(model.lm_head.weight)
    head.weight.data[-1] *= 0.1
    model.lm_head, model.config.tie_word_embeddings = head, False
    model.save_pretrained(tmp_path / "quieter")
    tokenizer.save_pretrained(tmp_path / "quieter")
    return tmp_path / "quieter"


def test_given_responses_at_several_settings(
    model_folder: Any, given: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    options = ["--model", model_folder, "--responses", given, "--expected", "--temperature", 1, 1.5, "--top-p", 1, 0.5]
    whole = as_json(capsys, *options, "--output", output)
    assert [(one["temperature"], one["top_p"]) for one in whole["settings"]] == [(1, 1), (1, 0.5), (1.5, 1), (1.5, 0.5)]
    model, tokenizer = (kind.from_pretrained(model_folder) for kind in (AutoModelForCausalLM, AutoTokenizer))
    found = switch_probabilities(
        model,
        tokenizer,
        [row["prompt"] for row in ROWS],
        [row["response"] for row in ROWS],
        [row["language"] for row in ROWS],
        settings=[Setting(1.5, 0.5)],
        ended=[True, None, None],
        progress=False,
    )[Setting(1.5, 0.5)]
    rows = [row for row in load_rows(output) if (row["temperature"], row["top_p"]) == (1.5, 0.5)]
    assert [row["expected"]["any"] for row in rows] == pytest.approx([one.any for one in found])
    assert whole["settings"][3]["overall"]["rate"] == pytest.approx(sum(one.any for one in found) / 3)
    assert rows[1]["topic"] == "x"
    # What was written is reported again without the model, the same to the digit.
    again = as_json(capsys, "--expected", "--responses", output)
    assert [one["overall"] for one in again["settings"]] == [one["overall"] for one in whole["settings"]]


@pytest.mark.parametrize("value", ["zh, ja", ["zh", "ja"]])
def test_the_column_allowed_is_read_as_where_switches_are_counted(
    value: Any, model_folder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**ROWS[0], "allowed": value}, {**ROWS[0], "prompt": "other"}]
    output = tmp_path / "out.jsonl"
    options = [*QUIET, "--model", model_folder, "--responses", write(tmp_path / "given.jsonl", rows)]
    as_json(capsys, *options, "--output", output)
    allowed, other = (row["expected"]["into"] for row in load_rows(output))
    assert "Hani" in other
    assert "Hani" not in allowed


def test_responses_that_think_have_one_report(
    model_folder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The probabilities are of the whole response, so that the thinking has none of its own."""
    row = {"prompt": "abc", "response": "<think>abc</think>abc", "language": "en"}
    path = write(tmp_path / "thinking.jsonl", [row])
    whole = as_json(capsys, "--model", model_folder, "--responses", path, *QUIET)
    assert whole["overall"]["total"] == 1
    assert "thinking" not in whole


def test_a_models_own_responses(model_folder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = write(
        tmp_path / "prompts.jsonl", [{"prompt": "abc", "language": "en"}, {"prompt": "f", "language": "en"}]
    )
    options = ["--model", model_folder, "--prompts", prompts, "--samples", 200, "--max-new-tokens", 4, "--top-p", 1]
    output = tmp_path / "out.jsonl"
    expected = as_json(capsys, *options, "--expected", "--output", output)["overall"]
    counted = as_json(capsys, *options, "--seed", 1)["overall"]
    assert expected["total"] == counted["total"] == 400
    assert expected["rate"] > 0.05
    assert expected["rate"] == pytest.approx(counted["rate"], abs=0.08)
    assert {row["finish_reason"] for row in load_rows(output)} <= {"stop", "length"}


def test_two_models_on_the_same_responses(
    model_folder: Any, quieter: Any, given: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "first.jsonl"
    assert measured("--model", model_folder, "--responses", given, *QUIET, "--output", first) == 0
    capsys.readouterr()
    options = ["--model", quieter, "--responses", given, *QUIET, "--against", first]
    comparison = as_json(capsys, *options)["comparison"]
    assert comparison["difference"] == pytest.approx(comparison["rate"] - comparison["against"])
    assert [one["into"] for one in comparison["scripts"]] == ["Hani"]
    assert measured(*options) == 0
    assert f"{100 * comparison['change']:+.1f}%" in capsys.readouterr().out


def test_rates_above_the_limit_and_tables_for_machines(
    model_folder: Any, given: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", model_folder, "--responses", given, *QUIET]
    assert measured(*options, "--csv", "--fail-above", 0.0001) == 1
    header, *lines = capsys.readouterr().out.splitlines()
    assert header == "language,into,rate,total,low,high"
    assert lines[0].startswith("all,any,")
    assert as_json(capsys, *options, "--by", "language")["settings"][1]["overall"]["total"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--phrases"], "--phrases cannot be used with --expected"),
        (["--published"], "--published cannot be used with --expected"),
        (["--ignore-glosses"], "--ignore-glosses cannot be used with --expected"),
        (["--han-without-kana"], "--han-without-kana cannot be used with --expected"),
        (["--thinking", "strip"], "--thinking cannot be used with --expected"),
        (["--max-new-tokens", 5, 6], "one value for --max-new-tokens"),
        (["--to", "chinesse"], "chinesse"),
        (["--prompts", "x.jsonl"], "--prompts needs --model"),
    ],
)
def test_refusals(model_folder: Any, given: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measured("--model", model_folder, "--responses", given, "--expected", *options)


def test_a_column_allowed_that_names_no_language(tmp_path: Path) -> None:
    """Found before a model is loaded."""
    given = write(tmp_path / "given.jsonl", [ROWS[0], {**ROWS[0], "allowed": ["xx"]}])
    with pytest.raises(ValueError, match="row 2, column 'allowed': unknown language 'xx'"):
        measured(*QUIET, "--model", "no/model", "--responses", given)


def test_runs_that_cannot_be_compared(model_folder: Any, given: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no column 'expected'\. Write the rows with"):
        measured("--model", model_folder, "--responses", given, "--expected", "--against", given)
    with pytest.raises(ValueError, match="no column 'expected'"):
        measured("--responses", given, "--expected")
    first = tmp_path / "first.jsonl"
    assert measured("--model", model_folder, "--responses", given, *QUIET, "--output", first) == 0
    with pytest.raises(ValueError, match=r"at temperature and top_p \[\(1.0, 1.0\)\], this run at \[\(1.0, 0.8\)\]"):
        measured("--model", model_folder, "--responses", given, "--expected", "--against", first)
    rows = [json.loads(line) for line in first.read_text().splitlines()][:2]
    fewer = write(tmp_path / "fewer.jsonl", rows)
    with pytest.raises(ValueError, match="same prompts"):
        measured("--model", model_folder, "--responses", given, *QUIET, "--against", fewer)
