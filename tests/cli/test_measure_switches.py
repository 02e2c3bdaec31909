"""`measure code-switching`: glosses, languages that a row allows, Han and kana, and the share of words."""

from pathlib import Path
from typing import Any

import pytest
from measure_cases import as_json, measured, write

from sae_posttrain.texts import load_rows

ROWS: list[dict[str, Any]] = [
    {"language": "en", "response": "Miyazaki (宮崎 駿) was born in Tokyo."},
    {"language": "en", "response": "In Chinese it is 你好 (nǐ hǎo).", "allowed": ["zh"]},
    {"language": "en", "response": "He said 日本語です."},
    {"language": "ja", "response": "検証の結果、检证した。"},
    {"language": "en", "response": "The torque is Δφ · 2πσ ಠ_ಠ."},
]


@pytest.mark.parametrize(
    ("options", "switched", "total"),
    [
        ([], 3, 5),
        (["--ignore-glosses"], 2, 5),
        (["--to", "zh"], 3, 5),
        (["--to", "zh", "--han-without-kana"], 2, 5),
        (["--to", "ja", "--han-without-kana"], 1, 4),
        (["--allow", "ja", "日本語"], 3, 5),
    ],
)
def test_what_counts(tmp_path: Path, capsys: Any, options: list[str], switched: int, total: int) -> None:
    overall = as_json(capsys, "--responses", write(tmp_path / "a.jsonl", ROWS), *options)["overall"]
    assert (overall["switched"], overall["total"]) == (switched, total)


def test_the_share_of_words_stands_in_table_and_json(tmp_path: Path, capsys: Any) -> None:
    path = write(tmp_path / "a.jsonl", [{"language": "en", "response": text} for text in ("one two three 答案", "one")])
    assert as_json(capsys, "--responses", path)["overall"]["words"] == 0.125
    assert measured("--responses", path) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-1] == "12.500"


def test_spans_say_their_language_where_the_script_does_not_tell(tmp_path: Path, capsys: Any) -> None:
    output = tmp_path / "out.jsonl"
    measured("--responses", write(tmp_path / "a.jsonl", ROWS), "--output", output)
    assert [(span["text"], span["language"]) for span in load_rows(output)[3]["unexpected"]] == [("检证", "zh")]


def test_a_row_that_allows_no_language_is_named(tmp_path: Path) -> None:
    rows = [*ROWS, {"language": "en", "response": "ok", "allowed": ["klingon"]}]
    with pytest.raises(ValueError, match="row 6, column 'allowed': unknown language 'klingon'"):
        measured("--responses", write(tmp_path / "a.jsonl", rows))
