"""Thinking and answer, measured apart: which counts, where it is found, and how both stand side by side."""

from __future__ import annotations

import argparse
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from measure_cases import as_json, measured, write
from tiny_models import word_tokenizer

from sae_posttrain.cli.measure.thinking import Parts
from sae_posttrain.metrics.thinking import opens_thinking
from sae_posttrain.texts import load_rows

LOOP = "on and on, " * 20
SWITCHES = [
    {"prompt": "a", "language": "en", "response": "<think>A 想 and so on.</think>\nFine."},
    {"prompt": "b", "language": "en", "response": "<think>So.</think>\nAll 好 and 好."},
    {"prompt": "c", "language": "en", "response": "Plain."},
    {"prompt": "d", "language": "en", "response": "想 then</think>Fine."},
    {"prompt": "e", "language": "en", "response": "<think>It goes on"},
]
LOOPS = [
    {"prompt": "a", "response": f"<think>Hm. {LOOP}"},
    {"prompt": "b", "response": f"<think>Hm. {LOOP}No.</think>Fine."},
    {"prompt": "c", "response": f"<think>Hm.</think>Well: {LOOP}"},
    {"prompt": "d", "response": "Fine."},
]


def counted(report: Any, name: Any = "switched") -> Any:
    return (report[name], report["total"])


@pytest.mark.parametrize(("choice", "found"), [("strip", (1, 5)), ("only", (2, 4))])
def test_one_part_is_measured_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], choice: Any, found: Any
) -> None:
    report = as_json(capsys, "--responses", write(tmp_path / "a.jsonl", SWITCHES), "--thinking", choice)
    assert counted(report["overall"]) == found
    assert "thinking" not in report


def test_by_default_both_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.jsonl", SWITCHES)
    report = as_json(capsys, "--responses", path)
    assert (counted(report["overall"]), counted(report["thinking"]["overall"])) == ((1, 5), (2, 4))
    assert report["unfinished_thinking"] == 1
    assert measured("--responses", path) == 0
    answer, thinking = capsys.readouterr().out.split("\n\n")
    assert answer.startswith("part answer\n")
    assert answer.endswith("1 responses are thinking without an answer.")
    assert thinking.startswith("part thinking\n")
    assert measured("--responses", path, "--csv") == 0
    rows = [row for row in csv.DictReader(io.StringIO(capsys.readouterr().out)) if row["language"] == "all"]
    assert [(row["part"], row["switched"]) for row in rows] == [("answer", "1"), ("thinking", "2")]


def test_without_thinking_nothing_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.jsonl", SWITCHES[2:3])
    assert measured("--responses", path) == 0
    assert "part" not in capsys.readouterr().out
    assert as_json(capsys, "--responses", path) == {**as_json(capsys, "--responses", path, "--thinking", "strip")}
    with pytest.raises(ValueError, match=r"--thinking only: none of 1 responses has thinking between <think> and"):
        measured("--responses", path, "--thinking", "only")


def test_places_fit_the_response_that_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = write(tmp_path / "a.jsonl", SWITCHES), tmp_path / "out.jsonl"
    assert measured("--responses", path, "--output", output) == 0
    rows = load_rows(output)
    assert [[span["text"] for span in row["unexpected"]] for row in rows] == [[], ["好", "好"], [], [], []]
    assert [[span["text"] for span in row.get("thinking_unexpected", ["-"]) if span != "-"] for row in rows] == [
        ["想"],
        [],
        [],
        ["想"],
        [],
    ]
    assert "thinking_unexpected" not in rows[2]
    for row in rows:
        for span in [*row["unexpected"], *row.get("thinking_unexpected", [])]:
            assert row["response"][span["start"] : span["end"]] == span["text"]
    assert measured("--responses", path, "--output", output, "--thinking", "only") == 0
    assert [[span["text"] for span in row["unexpected"]] for row in load_rows(output)[:2]] == [["想"], []]


def test_loops_of_both_parts_are_found_in_their_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = write(tmp_path / "a.jsonl", LOOPS), tmp_path / "out.jsonl"
    report = as_json(capsys, "--responses", path, "--output", output, kind="repetition")
    assert counted(report, "looped") == (1, 4)
    assert counted(report["thinking"], "looped") == (1, 3), "closed thinking did not go on for ever"
    rows = load_rows(output)
    loops = [row["thinking_loop"] for row in rows[:1]] + [row["loop"] for row in rows[2:3]]
    for row, loop in zip([rows[0], rows[2]], loops, strict=True):
        assert row["response"][loop["start"] :].startswith(loop["text"])
    assert [row["loop"] is None for row in rows] == [True, True, False, True]
    (whole,) = [as_json(capsys, "--responses", path, "--thinking", part, kind="repetition") for part in ["strip"]]
    assert counted(whole, "looped") == (1, 4)


def test_the_higher_rate_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.jsonl", SWITCHES)
    assert measured("--responses", path, "--fail-above", "30%") == 1
    assert measured("--responses", path, "--fail-above", "30%", "--thinking", "strip") == 0
    assert measured("--responses", path, "--fail-above", "60%") == 0


def test_runs_are_compared_part_by_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = [{**row, "response": "<think>So.</think>Fine."} for row in SWITCHES]
    path, other = write(tmp_path / "a.jsonl", SWITCHES), write(tmp_path / "b.jsonl", clean)
    report = as_json(capsys, "--responses", path, "--against", other)
    assert report["comparison"]["difference"] == pytest.approx(1 / 5)
    assert report["thinking"]["comparison"]["difference"] == pytest.approx(2 / 4)
    plain = write(tmp_path / "c.jsonl", [{**row, "response": "Fine."} for row in SWITCHES])
    report = as_json(capsys, "--responses", path, "--against", plain)
    assert "comparison" not in report["thinking"], "the other run does not think"


def test_tags_and_prompts_that_open_thinking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"language": "en", "response": "想 then"}, {"language": "en", "response": "[t]想[/t]Fine."}]
    path = write(tmp_path / "a.jsonl", rows)
    options = ["--thinking-tags", "[t]", "[/t]", "--thinking", "strip"]
    assert counted(as_json(capsys, "--responses", path, *options)["overall"]) == (1, 2)
    assert counted(as_json(capsys, "--responses", path, *options, "--thinking-opened")["overall"]) == (0, 2)
    rows[0]["thinking_opened"] = True
    assert counted(as_json(capsys, "--responses", write(path, rows), *options)["overall"]) == (0, 2)
    with pytest.raises(ValueError, match="expected two different tags"):
        measured("--responses", path, "--thinking-tags", "[t]", "[t]")


def test_reasoning_of_messages_is_thinking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = {"role": "assistant", "content": "Fine.", "reasoning_content": "想"}
    path = write(tmp_path / "a.jsonl", [{"choices": [{"message": message, "finish_reason": "stop"}]}])
    report = as_json(capsys, "--responses", path, "--language", "en")
    assert (counted(report["overall"]), counted(report["thinking"]["overall"])) == ((0, 1), (1, 1))


@pytest.mark.parametrize(
    ("template", "opens"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}<think>\n", True),
        ("{% for m in messages %}{{ m.content }}{% endfor %}<think>\n\n</think>\n\n", False),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", False),
        (None, False),
    ],
)
def test_a_chat_template_says_whether_it_opens_thinking(template: Any, opens: Any) -> None:
    tokenizer = word_tokenizer(["a b c"], "<pad>", "<eos>")
    tokenizer.chat_template = template
    assert opens_thinking(tokenizer) is opens
    assert opens_thinking(tokenizer, "[t]") is False


def test_marks_of_a_part_are_json(tmp_path: Path) -> None:
    args = argparse.Namespace(thinking="both", thinking_tags=["<think>", "</think>"], thinking_opened=False)
    row = {"response": "<think>ab</think>cd"}
    Parts(args, joined=True).mark(row, lambda part: part.update(found=[{"start": 1, "end": 2, "text": "x"}]))
    assert json.loads(json.dumps(row)) == {
        "response": "<think>ab</think>cd",
        "found": [{"start": 18, "end": 19, "text": "x"}],
        "thinking_found": [{"start": 8, "end": 9, "text": "x"}],
    }
