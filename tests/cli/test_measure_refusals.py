"""What the measure command refuses, and when: sampling takes hours, so mistakes come before it; files survive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from measure_cases import RESPONSES, measured, write

from sae_posttrain.texts import load_rows


@pytest.fixture
def unsampled(model_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The options of a model and its prompts; sampling them fails the test."""

    def sample(*args: Any, **settings: Any) -> None:
        pytest.fail("sampled before the mistake was refused")

    monkeypatch.setattr("sae_posttrain.sampling.sample_run", sample)
    rows = [{"prompt": "abc", "language": "en"}, {"prompt": "fed", "language": "zh"}]
    return ["--model", model_folder, "--prompts", write(tmp_path / "prompts.jsonl", rows)]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("code-switching", ["--to", "chinesse"], "chinesse"),
        ("code-switching", ["--to", "zh", "--by", "language"], "nothing to measure"),
        ("code-switching", ["--confidence", 95], "confidence must lie between 0 and 1"),
        ("code-switching", ["--by", "zz"], "no column 'zz'"),
        ("code-switching", ["--output", "."], "is a folder; name the file"),
        ("code-switching", ["--temperature", 1, -1], "temperature must be 0"),
        ("code-switching", ["--max-new-tokens", 0, 5], "max_new_tokens must be at least 1"),
        ("repetition", ["--min-repeats", 2], "min_repeats must be at least 3"),
    ],
)
def test_a_mistake_is_refused_before_sampling(unsampled: Any, kind: str, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measured(*unsampled, *options, kind=kind)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": 5}, "row 2: 'prompt' holds a int; expected a text or a list of messages"),
        ({"prompt": True}, "row 2: 'prompt' holds a bool"),
        ({"prompt": {"a": 1}}, "row 2: 'prompt' holds a dict"),
        ({"prompt": ["a"]}, "row 2: 'prompt' holds a list with 'a'; expected messages"),
        ({"language": 5}, "row 2: 'language' holds 5; expected a code"),
        ({"language": 0}, "row 2: 'language' holds 0; expected a code"),
        ({"language": ["en"]}, r"row 2: 'language' holds \['en'\]; expected a code"),
    ],
)
def test_a_value_of_another_kind_is_named_with_its_row(tmp_path: Path, changes: Any, message: str) -> None:
    path = write(tmp_path / "a.jsonl", [RESPONSES[0], {**RESPONSES[1], **changes}])
    with pytest.raises(ValueError, match=f"a.jsonl, {message}"):
        measured("--responses", path)


@pytest.mark.parametrize("kind", ["code-switching", "repetition"])
def test_a_place_that_cannot_be_written_is_refused_before_sampling(unsampled: Any, tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="part of its path is a file"):
        measured(*unsampled, "--output", tmp_path / "file" / "out.jsonl", kind=kind)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--english", "/nope"], FileNotFoundError, "nope"),
        (["--among", "xx"], ValueError, "unknown language 'xx'"),
        (["--confidence", 95], ValueError, "confidence must lie between 0 and 1"),
    ],
)
def test_a_mistake_in_pass_rates_is_refused_before_sampling(
    unsampled: Any, options: Any, error: Any, message: str
) -> None:
    pytest.importorskip("py3langid")
    with pytest.raises(error, match=message):
        measured(*unsampled, *options, kind="language-confusion")


def test_a_seed_that_the_interval_cannot_have_is_an_option_to_correct(
    unsampled: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        measured(*unsampled, "--seed", -3)
    assert "--seed: expected a whole number of at least 0, got '-3'" in capsys.readouterr().err


def test_a_missing_identifier_is_told_before_sampling(unsampled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("needs py3langid")

    monkeypatch.setattr("sae_posttrain.metrics.identification._whole", missing)
    with pytest.raises(ImportError, match="py3langid"):
        measured(*unsampled, kind="language-confusion")


def test_a_lone_surrogate_is_written_and_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [RESPONSES[0], {**RESPONSES[1], "response": "cut \ud83d"}]
    source, output = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(f"{row}\n" for row in map(json.dumps, rows)), encoding="utf-8")
    assert measured("--responses", source, "--output", output) == 0
    assert [row["response"] for row in load_rows(output)] == ["It is 你好.", "cut \ud83d"]
    assert "你好" in output.read_text(encoding="utf-8")


def test_an_output_that_cannot_be_written_whole_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("kept\n", encoding="utf-8")

    def failing(row: Any, **settings: Any) -> Any:
        if row["response"] == "A greeting.":
            raise OSError("no space left")
        return "{}"

    source = write(tmp_path / "a.jsonl", RESPONSES)
    monkeypatch.setattr("sae_posttrain.cli.measure.reporting.json.dumps", failing)
    with pytest.raises(OSError, match="no space left"):
        measured("--responses", source, "--output", output)
    assert output.read_text(encoding="utf-8") == "kept\n"
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "out.jsonl"}


def test_an_output_may_be_a_link_or_a_device(
    tmp_path: Path, responses: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "real.jsonl").write_text("")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    assert measured("--responses", responses, "--output", tmp_path / "link.jsonl") == 0
    assert (tmp_path / "link.jsonl").is_symlink()
    assert len(load_rows(tmp_path / "real.jsonl")) == 4
    assert measured("--responses", responses, "--output", "/dev/null") == 0
