"""Why responses in files ended, in every spelling that is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from measure_cases import as_json, measured, write

from sae_posttrain.cli.measure.responses import ended
from sae_posttrain.texts import load_rows


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, None),
        ({"finish_reason": None}, None),
        ({"finish_reason": ""}, None),
        ({"finish_reason": "stop"}, True),
        ({"finish_reason": "length"}, False),
        ({"finish_reason": "length", "ended": True}, False),
        ({"finish_reason": None, "ended": True}, True),
        ({"finish_reason": "eos_token"}, True),
        ({"finish_reason": "max_tokens"}, False),
        ({"finish_reason": "content_filter"}, None),
        ({"finish_reason": "STOP"}, True),
        ({"finish_reason": "MAX_TOKENS"}, False),
        ({"ended": True}, True),
        ({"ended": False}, False),
        ({"ended": None}, None),
        ({"ended": "False"}, False),
        ({"ended": "true"}, True),
        ({"ended": ""}, None),
    ],
)
def test_why_a_response_ended_is_read(row: Any, expected: Any) -> None:
    assert ended([row]) == [expected]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"finish_reason": "tired"}, "response 2: 'finish_reason' holds 'tired'; expected \"stop\", \"length\" or"),
        ({"finish_reason": 3}, "response 2: 'finish_reason' holds 3"),
        ({"finish_reason": ["stop"]}, "response 2: 'finish_reason' holds"),
        ({"ended": "perhaps"}, "response 2: 'ended' holds 'perhaps'; expected true, false or nothing."),
        ({"ended": 3}, "response 2: 'ended' holds 3"),
    ],
)
def test_a_reason_that_cannot_be_read_is_named(row: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ended([{}, row])


def test_an_answer_that_the_model_ended_is_no_endless_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop = "and so on, " * 30
    rows = [
        {"response": loop, "finish_reason": "stop"},
        {"response": loop, "finish_reason": "length"},
        {"response": loop, "ended": True},
        {"response": loop},
        {"response": loop + "until it was done, and then we went home.", "ended": True},
    ]
    path, output = write(tmp_path / "a.jsonl", rows), tmp_path / "out.jsonl"
    report = as_json(capsys, "--responses", path, "--output", output, kind="repetition")
    assert (report["looped"], report["ended_looped"], report["left"], report["unknown_ends"]) == (2, 2, 1, 1)
    assert [row["repetition"] for row in load_rows(output)] == [None, "loop", None, "loop", "left"]
    assert measured("--responses", path, kind="repetition") == 0
    told = capsys.readouterr().out
    assert "0 end in a near-loop, 1 left a loop again, 2 end in a loop that the model ended by itself" in told
    assert "for 1 responses it is not known why they ended; they count as cut at the token limit" in told


def test_a_models_answers_say_how_they_ended(
    model_folder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, output = write(tmp_path / "p.jsonl", [{"prompt": "abc"}, {"prompt": "fed"}]), tmp_path / "out.jsonl"
    options = ["--samples", 8, "--max-new-tokens", 12, "--min-length", 6, "--output", output]
    report = as_json(capsys, "--model", model_folder, "--prompts", prompts, *options, kind="repetition")
    rows = load_rows(output)
    assert report["unknown_ends"] == 0
    assert {row["finish_reason"] for row in rows} == {"stop", "length"}
    assert all(row["tokens"] == 12 for row in rows if row["finish_reason"] == "length")
    assert all(row["loop"] is None for row in rows if row["finish_reason"] == "stop")
    again = as_json(capsys, "--responses", output, "--min-length", 6, kind="repetition")
    assert all(report[name] == value for name, value in again.items()), "what is read is what was written"
