"""Answers in the files that other tools write."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest
from measure_cases import as_json, measured, write

from sae_posttrain.cli.answers import ColumnNames
from sae_posttrain.cli.inputs import read_rows
from sae_posttrain.texts import load_rows

ANSWERS = ["It is 你好.", "A greeting,\nsaid she.", "fine", "так"]
LANGUAGES = ["en", "eng_Latn", "English", "ru"]


def chat(*said: Any) -> Any:
    return [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 9, said, strict=False)]


def switched(capsys: pytest.CaptureFixture[str], *arguments: Any) -> Any:
    overall = as_json(capsys, "--responses", *arguments)["overall"]
    return overall["switched"], overall["total"]


def marked(tmp_path: Path, capsys: pytest.CaptureFixture[str], *arguments: Any) -> Any:
    """The rows of `--output`, each with its foreign words."""
    assert measured("--responses", *arguments, "--output", tmp_path / "out.jsonl") == 0
    capsys.readouterr()
    rows = load_rows(tmp_path / "out.jsonl")
    for row in rows:
        for span in row["unexpected"]:
            assert row["response"][span["start"] : span["end"]] == span["text"]
    return rows


@pytest.mark.parametrize("column", ["response", "completion", "output", "generated_text", "text"])
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.parquet", "a.jsonl"])
def test_tables_by_every_usual_name(tmp_path: Path, capsys: pytest.CaptureFixture[str], column: Any, name: Any) -> None:
    frame = pandas.DataFrame({"id": range(4), column: ANSWERS, "language": LANGUAGES})
    path = tmp_path / name
    if ".csv" in name or ".tsv" in name:
        frame.to_csv(path, index=False, sep="\t" if "tsv" in name else ",")
    elif name.endswith("parquet"):
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    assert switched(capsys, path) == (1, 4)
    rows = marked(tmp_path, capsys, path)
    assert [row["response"] for row in rows] == ANSWERS
    assert column == "response" or column not in rows[0]


def test_columns_by_any_name_and_prompts_for_clusters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pandas.DataFrame(
        {"reply": ANSWERS * 4, "tongue": LANGUAGES * 4, "asked": [f"Q{i % 4}" for i in range(16)], "text": "你好"}
    )
    frame.to_csv(tmp_path / "a.csv", index=False)
    names = ["--response-column", "reply", "--language-column", "tongue", "--prompt-column", "asked"]
    assert switched(capsys, tmp_path / "a.csv", *names) == (4, 16)
    rows = marked(tmp_path, capsys, tmp_path / "a.csv", *names)
    assert set(rows[0]) == {"text", "prompt", "language", "response", "unexpected"}
    together = as_json(capsys, "--responses", tmp_path / "a.csv", *names)["overall"]
    apart = as_json(capsys, "--responses", tmp_path / "a.csv", *names[:4])["overall"]
    assert together["high"] > apart["high"]


def test_datasets_of_messages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"messages": chat("Hi", "Hello.", "Why?", "Because 你好."), "language": "en"},
        {"messages": chat("Hi", "你好"), "language": "zh"},
    ]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    found = marked(tmp_path, capsys, tmp_path / "a.parquet")
    assert [row["response"] for row in found] == ["Because 你好.", "你好"]
    assert [[message["content"] for message in row["prompt"]] for row in found] == [["Hi", "Hello.", "Why?"], ["Hi"]]
    shared = [
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "你好."}], "language": "en"}
    ]
    assert switched(capsys, write(tmp_path / "b.jsonl", shared)) == (1, 1)


def test_conversational_completions_with_reasoning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in the rows of TRL's tables of conversational data."""
    rows = [
        {
            "prompt": chat("Hi"),
            "completion": [{"role": "assistant", "content": "你好.", "reasoning_content": "A greeting."}],
            "language": "en",
        },
        {"prompt": chat("Hi"), "completion": chat("", "Fine.")[1:], "language": "en"},
    ]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    found = marked(tmp_path, capsys, tmp_path / "a.parquet")
    assert [row["response"] for row in found] == ["<think>A greeting.</think>你好.", "Fine."]


def completion(*texts: Any, **further: Any) -> Any:
    """An OpenAI chat completion, as its API documents it."""
    choices = [
        {"index": index, "message": {"role": "assistant", "content": text, **further}, "finish_reason": "length"}
        for index, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16}
    return {"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "choices": choices, "usage": usage}


def test_answers_of_servers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = marked(tmp_path, capsys, write(tmp_path / "a.jsonl", [completion("Well, 好"), completion("a", "b")]), *EN)
    assert [(row["response"], row.get("tokens"), row["finish_reason"]) for row in rows] == [
        ("Well, 好", 7, "length"),
        ("a", None, "length"),
        ("b", None, "length"),
    ]
    (tmp_path / "one.json").write_text(json.dumps(completion("好", reasoning_content="想"), indent=2), encoding="utf-8")
    assert [row["response"] for row in marked(tmp_path, capsys, tmp_path / "one.json", *EN)] == ["<think>想</think>好"]
    old = {"object": "text_completion", "choices": [{"index": 0, "text": " 好", "finish_reason": "stop"}]}
    assert switched(capsys, write(tmp_path / "old.jsonl", [old]), *EN) == (1, 1)


EN = ["--language", "en"]


def test_batch_outputs_leave_out_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {
            "id": "b",
            "custom_id": f"r{i}",
            "response": {"status_code": 200, "request_id": "x", "body": body},
            "error": None,
        }
        for i, body in enumerate([completion("好", "fine"), completion("fine")])
    ]
    rows += [
        {"id": "b", "custom_id": "r2", "response": None, "error": {"code": "batch_expired", "message": "…"}},
        {
            "id": "b",
            "custom_id": "r3",
            "response": {"status_code": 400, "body": {"error": {"code": "x"}}},
            "error": None,
        },
    ]
    path = write(tmp_path / "batch.jsonl", rows)
    assert switched(capsys, path, *EN) == (1, 3)
    assert [row["custom_id"] for row in marked(tmp_path, capsys, path, *EN)] == ["r0", "r0", "r1"]
    measured("--responses", path, *EN)
    assert "2 of 4 requests failed" in capsys.readouterr().err
    with pytest.raises(ValueError, match="all 2 requests failed"):
        measured("--responses", write(tmp_path / "failed.jsonl", rows[2:]), *EN)


def test_the_csv_of_the_language_confusion_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its columns, its quoting, and its line breaks inside a cell."""
    with (tmp_path / "model.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "model", "completion", "task", "source", "language"])
        writer.writerow(
            [0, "m", " Кошка видит дом сегодня утром.\nThe cat sees a small house, today", "monolingual", "okapi", "ru"]
        )
        writer.writerow([1, "m", "Кошка видит очень маленький дом за рекой", "monolingual", "okapi", "ru"])
    found = as_json(capsys, "--responses", tmp_path / "model.csv", kind="language-confusion")
    assert (found["lpr"]["passed"], found["lpr"]["total"]) == (1, 2)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"answer": "a", "id": 1}], [], "row 1: no text in column 'response'; the columns present are 'answer', 'id'"),
        ([{"answer": "a"}], [], "--response-column"),
        ([{"answer": "a"}], ["--response-column", "reply"], r"no column 'reply' \(--response-column\); .* 'answer'"),
        ([{"answer": 3}], ["--response-column", "answer"], "--response-column answer holds a int, not a text"),
        ([{"response": "a"}], ["--prompt-column", "asked"], r"no column 'asked' \(--prompt-column\)"),
        ([{"response": "a"}], ["--language-column", "lang"], r"no column 'lang' \(--language-column\)"),
        ([{"response": "a", "lang": "en"}], [], "or --language-column NAME"),
        ([{"response": {"text": "a"}}], [], "no text in column 'response', which holds a dict"),
        ([{"choices": [{"delta": {}}]}], [], "a choice has neither 'message' nor 'text'"),
        ([{"completion": ["a"]}], [], "no text in column 'completion', which holds a list; the columns"),
        ([{"response": None, "id": 1}], [], "no text in column 'response', which holds nothing; the columns"),
        ([{"messages": [{"role": "user", "content": "a"}]}], [], "row 1: 'messages' holds no answer"),
        ([{"completion": [{"a": 1}]}], [], "'completion' holds a list with {'a': 1}; expected messages"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_option_that_maps_it(
    tmp_path: Path, rows: Any, options: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measured("--responses", write(tmp_path / "a.jsonl", rows), *options)


def test_a_file_is_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Values that look like code or like a pickle are texts; the options of a saved dataset run nothing either."""
    rows = [
        {"response": "__import__('os').system('false')", "language": "en"},
        {"response": "=cmd|' /C calc'!A0", "language": "en"},
    ]
    pandas.DataFrame(rows).to_csv(tmp_path / "a.csv", index=False)
    pandas.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        assert switched(capsys, tmp_path / name) == (0, 2)
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04N.")
    with pytest.raises(ValueError, match="expected a name that ends in"):
        measured("--responses", tmp_path / "a.pkl")


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Hi"}, "Hi"),
        ({"instruction": "Add.", "input": "2 2", "output": "4"}, "Add.\n2 2"),
        ({"question": "Why?"}, "Why?"),
        ({"messages": chat("Hi", "Hello.", "Why?", "Because.")}, chat("Hi", "Hello.", "Why?")),
        ({"prompt": [{"role": "user", "content": "Hi", "tool_calls": None}]}, chat("Hi")),
    ],
)
def test_prompts_by_every_usual_name(tmp_path: Path, row: Any, prompt: Any) -> None:
    path = write(tmp_path / "a.jsonl", [row])
    (found,) = read_rows(str(path), "prompt", None)
    assert found["prompt"] == prompt
    (named,) = read_rows(str(write(tmp_path / "b.jsonl", [{"q": "Hi"}])), "prompt", None, ColumnNames(prompt="q"))
    assert named == {"prompt": "Hi"}
    with pytest.raises(ValueError, match=r"'prompt'; the columns present are 'q'.* rename the column, or name it"):
        read_rows(str(tmp_path / "b.jsonl"), "prompt", None)
