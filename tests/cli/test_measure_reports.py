"""What comes of a report: exit codes, CSV, comparisons, settings side by side."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from measure_cases import LOOPING, RESPONSES, as_json, measured, write

from sae_posttrain.cli import main
from sae_posttrain.texts import load_rows


def test_a_threshold_decides_the_exit_code(responses: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert measured("--responses", responses, "--fail-above", "50%") == 0
    assert measured("--responses", responses, "--fail-above", "0.5") == 0
    assert capsys.readouterr().err == ""
    assert measured("--responses", responses, "--fail-above", "49.9%") == 1
    assert "The rate is 50.000%; --fail-above allows at most 49.900%." in capsys.readouterr().err
    assert measured("--responses", responses, "--fail-above", "0%", "--to", "ko") == 0


def test_the_command_exits_with_what_the_threshold_says_and_2_for_errors(
    responses: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["measure", "code-switching", "--responses", str(responses), "--fail-above"]
    assert [main([*command, share]) for share in ("50%", "1%")] == [0, 1]
    assert main(["measure", "repetition", "--responses", str(tmp_path / "none.jsonl"), "--fail-above", "1%"]) == 2


@pytest.mark.parametrize("given", ["1", "100%", "-1%", "few", "%", "nan"])
def test_a_threshold_that_makes_no_sense_is_an_error_and_not_a_failure(
    responses: Any, capsys: pytest.CaptureFixture[str], given: Any
) -> None:
    with pytest.raises(SystemExit) as stopped:
        measured("--responses", responses, f"--fail-above={given}")
    assert stopped.value.code == 2
    assert "such as 1% or 0.01" in capsys.readouterr().err


def test_csv_has_a_row_for_each_rate(responses: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert measured("--responses", responses, "--csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["language"], row["into"], row["switched"], row["total"]) for row in rows] == [
        ("all", "any", "2", "4"),
        ("en", "any", "1", "3"),
        ("ru", "any", "1", "1"),
        ("en", "Hani", "1", "3"),
        ("ru", "Hani", "1", "1"),
    ]
    assert float(rows[0]["rate"]) == 0.5
    with pytest.raises(SystemExit):
        measured("--responses", responses, "--csv", "--json")


def test_two_runs_on_the_same_prompts_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": str(i), "language": "en", "response": "ok 是" if i < 12 else "ok"} for i in range(40)]
    before = write(tmp_path / "before.jsonl", rows)
    after = write(tmp_path / "after.jsonl", [{**row, "response": "ok"} for row in reversed(rows)])
    report = as_json(capsys, "--responses", after, "--against", before)
    assert (report["overall"]["rate"], report["against"]["overall"]["rate"]) == (0, 0.3)
    assert report["comparison"]["difference"] == -0.3
    assert report["comparison"]["p_value"] < 0.01
    assert measured("--responses", after, "--against", before) == 0
    assert "against 30.000%: -30.000 points" in capsys.readouterr().out
    assert as_json(capsys, "--responses", after, "--against", after, kind="repetition")["comparison"]["p_value"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--by", "language"], "Leave out --by, and give each setting one value"),
        (["--csv"], "--csv cannot print a comparison"),
        ([], "answered the same prompts: 1 are in the first only"),
    ],
)
def test_comparisons_that_cannot_be_made_are_refused(
    responses: Any, tmp_path: Path, options: Any, message: str
) -> None:
    other = write(tmp_path / "b.jsonl", RESPONSES[:3])
    with pytest.raises(ValueError, match=message):
        measured("--responses", responses, "--against", other, *options)


def test_a_report_for_each_value_of_a_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**row, "response": row["response"] * times, "times": times} for row in LOOPING for times in (1, 3)]
    path = write(tmp_path / "a.jsonl", rows)
    report = as_json(capsys, "--responses", path, "--by", "times", kind="repetition")
    assert [(setting["times"], setting["looped"], setting["total"]) for setting in report["settings"]] == [
        (1, 2, 4),
        (3, 2, 4),
    ]
    assert measured("--responses", path, "--by", "times", "--csv", kind="repetition") == 0
    assert [row["times"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))] == ["1", "3"]
    with pytest.raises(ValueError, match="response 1 has no column 'temperature'; it has 'prompt'"):
        measured("--responses", path, "--by", "temperature", kind="repetition")


def test_a_report_for_each_prompt_of_messages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = [[{"role": "user", "content": content}] for content in ("Счёт", "Stop")]
    rows = [{**row, "prompt": prompts[number // 2]} for number, row in enumerate(LOOPING)]
    path = write(tmp_path / "a.jsonl", rows)
    report = as_json(capsys, "--responses", path, "--by", "prompt", kind="repetition")
    assert [(json.loads(one["prompt"]), one["looped"]) for one in report["settings"]] == [
        (prompts[0], 2),
        (prompts[1], 0),
    ]
    assert measured("--responses", path, "--by", "prompt", kind="repetition") == 0
    assert '"Счёт"' in capsys.readouterr().out


def test_a_column_called_as_one_of_the_reports_keeps_its_values(
    responses: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measured("--responses", responses, "--by", "language", "--csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["by_language"], row["language"]) for row in rows if row["into"] == "any"] == [
        ("en", "all"),
        ("en", "en"),
        ("ru", "all"),
        ("ru", "ru"),
    ]
    report = as_json(capsys, "--responses", responses, "--by", "language")
    assert [one["language"] for one in report["settings"]] == ["en", "ru"]


def test_a_column_called_as_one_of_the_jsons_keeps_its_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.jsonl", [{**row, "total": place} for place, row in enumerate(LOOPING)])
    report = as_json(capsys, "--responses", path, "--by", "total", kind="repetition")
    assert [(one["by_total"], one["total"]) for one in report["settings"]] == [(0, 1), (1, 1), (2, 1), (3, 1)]


def test_a_model_is_measured_at_several_temperatures_and_length_caps(
    model_folder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, output = write(tmp_path / "p.jsonl", [{"prompt": "abc"}, {"prompt": "fed"}]), tmp_path / "out.jsonl"
    several = ["--samples", 2, "--max-new-tokens", 150, 2, "--temperature", 0, 1, "--output", output]
    report = as_json(capsys, "--model", model_folder, "--prompts", prompts, *several, kind="repetition")
    settings = [(one["temperature"], one["max_new_tokens"]) for one in report["settings"]]
    assert settings == [(0, 2), (0, 150), (1, 2), (1, 150)]
    assert [one["total"] for one in report["settings"]] == [2, 2, 4, 4], "greedy answers once each"
    rows = load_rows(output)
    short, long = ([row["response"] for row in rows if row["max_new_tokens"] == cap] for cap in (2, 150))
    assert all(text == whole[: len(text)] for text, whole in zip(short, long, strict=True))
    assert max(map(len, short)) <= 2 < max(map(len, long))
    ends = ([(row["finish_reason"], row["tokens"]) for row in rows if row["max_new_tokens"] == cap] for cap in (2, 150))
    for cut, whole in zip(*ends, strict=True):
        assert cut == (whole if whole[1] <= 2 else ("length", 2))
        assert whole[0] == "stop" or whole[1] == 150
    by = ["--by", "temperature", "max_new_tokens"]
    again = as_json(capsys, "--responses", output, *by, kind="repetition")
    assert again["settings"] == report["settings"]


def test_the_published_rate_stands_beside_ours(responses: Any, capsys: pytest.CaptureFixture[str]) -> None:
    report = as_json(capsys, "--responses", responses, "--ignore-prompt", "--published")
    assert (report["overall"]["switched"], report["published"]["switched"]) == (1, 3)


def test_phrases_and_pass_rates_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("py3langid")
    french = "et ensuite vous pouvez utiliser cette valeur dans votre fonction"
    rows = [
        {"prompt": "a", "language": "en", "response": f"You can declare a type, {french}, with the editor's help."},
        {"prompt": "b", "language": "en", "response": "You can declare a type, with the editor's help for it."},
        {"prompt": "c", "language": "ru", "response": "Кошка видит маленький дом, и поёт сегодня today."},
        {"prompt": "d", "language": "en", "response": french},
    ]
    path, output = write(tmp_path / "a.jsonl", rows), tmp_path / "out.jsonl"
    report = as_json(capsys, "--responses", path, "--phrases", "--output", output)
    assert [(pair["language"], pair["into"], pair["switched"]) for pair in report["pairs"]] == [("en", "fr", 2)]
    assert [[span["language"] for span in row["unexpected"]] for row in load_rows(output)] == [["fr"], [], [], ["fr"]]
    assert as_json(capsys, "--responses", path, "--phrases", "de")["overall"]["switched"] == 0
    report = as_json(capsys, "--responses", path, "--output", output, kind="language-confusion")
    assert (report["lpr"]["rate"], report["wpr"]["rate"], report["rate"]) == (2 / 4, 0, 3 / 4)
    assert not any("unexpected" in row for row in load_rows(output))
    assert [[span["text"] for span in row["confused"]] for row in load_rows(output)] == [
        [rows[0]["response"]],
        [],
        ["today"],
        [french],
    ]
    words = tmp_path / "words.txt"
    words.write_text("tomorrow\n", encoding="utf-8")
    report = as_json(capsys, "--responses", path, "--english", words, kind="language-confusion")
    assert report["wpr"]["rate"] == 1
