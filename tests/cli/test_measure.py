"""The measure command, on given responses and on a tiny model's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from measure_cases import LOOPING, RESPONSES, as_json, measured, write
from transformers import Qwen3ForCausalLM

from sae_posttrain.sampling import Response, SampledRun, TransformersEngine
from sae_posttrain.texts import load_rows


def test_given_responses_make_a_table(responses: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert measured("--responses", responses) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:4] for line in lines[1:]] == [
        ["all", "any", "2", "4"],
        ["en", "any", "1", "3"],
        ["ru", "any", "1", "1"],
        ["en", "Hani", "1", "3"],
        ["ru", "Hani", "1", "1"],
    ]


@pytest.mark.parametrize(
    ("options", "switched"),
    [
        ([], 2),
        (["--to", "zh"], 2),
        (["--to", "ko"], 0),
        (["--ignore-prompt"], 1),
        (["--count-code"], 3),
        (["--allow", "你好"], 1),
        (["--allow", "Hani"], 0),
        (["--limit", "1"], 1),
        (["--to", "en", "Hani"], 2),
    ],
)
def test_options_change_what_counts(
    responses: Any, capsys: pytest.CaptureFixture[str], options: Any, switched: Any
) -> None:
    assert as_json(capsys, "--responses", responses, *options)["overall"]["switched"] == switched


def test_confidence_and_samples_of_one_prompt_shape_the_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"prompt": str(i), "language": "en", "response": "是" if i < 3 else "yes"} for i in range(30) for _ in range(4)
    ]
    together = as_json(capsys, "--responses", write(tmp_path / "a.jsonl", rows))["overall"]
    wider = as_json(capsys, "--responses", tmp_path / "a.jsonl", "--confidence", 0.99)["overall"]
    for row in rows:
        del row["prompt"]
    apart = as_json(capsys, "--responses", write(tmp_path / "b.jsonl", rows))["overall"]
    assert together["rate"] == apart["rate"] == 0.1
    assert wider["high"] > together["high"] > apart["high"]


def test_output_holds_the_unexpected_words(responses: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "out.jsonl"
    assert measured("--responses", responses, "--ignore-prompt", "--output", output) == 0
    found = load_rows(output)
    assert [[word["text"] for word in row.pop("unexpected")] for row in found] == [[], [], [], ["那里"]]
    assert found == RESPONSES


@pytest.mark.parametrize("target", ["en", "Latn"])
def test_what_is_marked_is_what_a_latin_target_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: Any
) -> None:
    path = write(tmp_path / "a.jsonl", [{"language": "ru", "response": text} for text in ("Там today.", "Там.")])
    output = tmp_path / "out.jsonl"
    report = as_json(capsys, "--responses", path, "--to", target, "--output", output)
    assert report["overall"]["switched"] == 1
    assert [[word["text"] for word in row["unexpected"]] for row in load_rows(output)] == [["today"], []]


def test_plain_text_needs_only_the_language(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "responses.txt"
    path.write_text("fine\nso 是\n", encoding="utf-8")
    assert as_json(capsys, "--responses", path, "--language", "en")["overall"]["switched"] == 1


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"response": "a"}], [], "row 1: no 'language'; add the column, or give --language"),
        ([{"response": "a", "language": "xx"}], [], "row 1: unknown language 'xx'"),
        ([{"answer": "a", "language": "en"}], [], "no text in column 'response'; the columns present are 'answer'"),
        ([{"response": 3, "language": "en"}], [], "no text in column 'response'"),
        ([{"response": "a", "language": "en"}], ["--ignore-prompt"], "some rows have no prompt"),
        ([{"response": "a", "language": "en"}], ["--prompts", "p"], "--prompts needs --model"),
        ([{"response": "a", "language": "en"}], ["--adapter", "p"], "--adapter needs --model"),
        ([{"response": "a", "language": "en"}], ["--limit", "0"], "--limit must be at least 1"),
        ([{"response": "好", "language": "zh"}], ["--to", "zh"], "nothing to measure"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, rows: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measured("--responses", write(tmp_path / "a.jsonl", rows), *options)


def test_missing_files_and_models_are_named(tmp_path: Path, responses: Any) -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        measured("--responses", tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="--model needs --prompts"):
        measured("--model", tmp_path)
    with pytest.raises(FileNotFoundError, match="cannot load"):
        measured("--model", tmp_path / "none", "--prompts", responses)
    with pytest.raises(ValueError, match="--responses or --model, not both"):
        measured("--responses", responses, "--model", tmp_path)
    with pytest.raises(ValueError, match="Give --responses FILE, or --model"):
        measured()


@pytest.fixture
def prompts(tmp_path: Path) -> Any:
    return write(
        tmp_path / "prompts.jsonl",
        [{"prompt": "abc", "language": "en", "id": 7}, {"prompt": "fed", "language": "fr", "id": 8}],
    )


SMALL = ["--samples", 5, "--max-new-tokens", 6, "--batch-size", 4]


def test_a_model_is_sampled_and_measured(
    model_folder: Any, prompts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    report = as_json(capsys, "--model", model_folder, "--prompts", prompts, "--to", "zh", "--output", output, *SMALL)
    rows = load_rows(output)
    assert [(row["id"], row["prompt"], row["language"]) for row in rows] == [(7, "abc", "en")] * 5 + [
        (8, "fed", "fr")
    ] * 5
    switched = [("是" in row["response"]) for row in rows]
    assert 0 < sum(switched) < 10
    assert report["overall"]["switched"] == sum(switched)
    assert (report["overall"]["total"], report["samples"], report["max_new_tokens"]) == (10, 5, 6)
    again = as_json(capsys, "--responses", output, "--to", "zh")
    assert again["overall"] == report["overall"]
    assert as_json(capsys, "--model", model_folder, "--prompts", prompts, "--to", "zh", *SMALL) == report


def test_an_adapter_changes_the_responses(
    model_folder: Any, prompts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        Qwen3ForCausalLM.from_pretrained(model_folder),
        peft.LoraConfig(r=4, target_modules=["o_proj", "down_proj"], init_lora_weights=False),
    )
    for parameter in model.parameters():
        parameter.data *= 10
    model.save_pretrained(tmp_path / "adapter")
    for name, extra in (("plain", []), ("adapted", ["--adapter", tmp_path / "adapter"])):
        output = tmp_path / f"{name}.jsonl"
        assert measured("--model", model_folder, "--prompts", prompts, "--output", output, *extra, *SMALL) == 0
    plain, adapted = (load_rows(tmp_path / f"{name}.jsonl") for name in ("plain", "adapted"))
    assert [row["response"] for row in plain] != [row["response"] for row in adapted]


def test_chat_template_is_used_when_there_is_one(
    model_folder: Any, prompts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def sample(engine: TransformersEngine, prompts: Any, sampling: Any, **settings: Any) -> SampledRun:
        seen.append(engine.chat)
        return SampledRun([{0: Response("a", "stop", 2, (1, 2))} for _ in prompts])

    monkeypatch.setattr("sae_posttrain.sampling.sample_run", sample)
    measured("--model", model_folder, "--prompts", prompts)
    (model_folder / "chat_template.jinja").write_text("{% for m in messages %}<user>{{ m.content }}{% endfor %}")
    measured("--model", model_folder, "--prompts", prompts)
    measured("--model", model_folder, "--prompts", prompts, "--no-chat")
    assert seen == [False, True, False]


def test_prompts_may_be_messages(model_folder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model_folder / "chat_template.jinja").write_text("{% for m in messages %}<user>{{ m.content }}{% endfor %}")
    row = {"prompt": [{"role": "user", "content": "是是"}], "language": "en"}
    path = write(tmp_path / "messages.jsonl", [row])
    options = ["--model", model_folder, "--prompts", path, "--seed", 3, *SMALL, "--samples", 20]
    counted = as_json(capsys, *options)["overall"]["switched"]
    assert as_json(capsys, *options, "--ignore-prompt")["overall"]["switched"] < counted
    torch.manual_seed(1)
    assert as_json(capsys, *options)["overall"]["switched"] == counted


@pytest.mark.parametrize(
    ("options", "looped"),
    [
        (["--no-fold-digits"], 1),
        ([], 2),
        (["--min-repeats", 21], 0),
        (["--min-repeats", 11], 1),
        (["--min-length", 301], 0),
        (["--limit", 1], 1),
    ],
)
def test_loops_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: Any, looped: Any) -> None:
    report = as_json(capsys, "--responses", write(tmp_path / "a.jsonl", LOOPING), *options, kind="repetition")
    assert report["looped"] == looped
    assert report["fold_digits"] == ("--no-fold-digits" not in options)


def test_repetition_makes_a_table_and_writes_its_loops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = write(tmp_path / "a.jsonl", LOOPING), tmp_path / "new" / "out.jsonl"
    assert measured("--responses", path, "--output", output, kind="repetition") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["2", "4", "50.000"]
    rows = load_rows(output)
    assert [row.pop("loop") for row in rows] == [
        {"start": 5, "end": 226, "period": 11, "text": " on and on,"},
        {"start": 0, "end": 300, "period": 15, "text": "Line 10 of it. "},
        None,
        None,
    ]
    assert [(row.pop("repetition"), row.pop("near_loop")) for row in rows] == [
        *[("loop", None)] * 2,
        *[("left", None), (None, None)],
    ]
    assert [row.pop("looped_share") for row in rows] == [0.9779, 1.0, 0.9283, 0.0]
    assert rows == LOOPING


def test_samples_of_one_prompt_shape_the_interval_of_repetition(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": str(i), "response": LOOPING[0 if i < 3 else 3]["response"]} for i in range(30) for _ in range(4)]
    together = as_json(capsys, "--responses", write(tmp_path / "a.jsonl", rows), kind="repetition")
    wider = as_json(capsys, "--responses", tmp_path / "a.jsonl", "--confidence", 0.99, kind="repetition")
    for row in rows:
        del row["prompt"]
    apart = as_json(capsys, "--responses", write(tmp_path / "b.jsonl", rows), kind="repetition")
    assert together["rate"] == apart["rate"] == 0.1
    assert wider["high"] > together["high"] > apart["high"]


def test_a_models_repetition_is_sampled_and_measured(
    model_folder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, output = write(tmp_path / "p.jsonl", [{"prompt": "abc"}, {"prompt": "fed"}]), tmp_path / "out.jsonl"
    greedy = ["--samples", 2, "--max-new-tokens", 150, "--temperature", 0, "--output", output]
    report = as_json(capsys, "--model", model_folder, "--prompts", prompts, *greedy, kind="repetition")
    rows = load_rows(output)
    assert [row["prompt"] for row in rows] == ["abc", "fed"], "greedy answers once each"
    assert (report["total"], report["temperature"]) == (2, 0)
    assert report["looped"] == sum(row["loop"] is not None for row in rows)
    again = as_json(capsys, "--responses", output, kind="repetition")
    assert all(report[key] == value for key, value in again.items())


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"answer": "a"}], [], "no text in column 'response'; the columns present are 'answer'"),
        ([{"response": "a"}], ["--prompts", "p"], "--prompts needs --model"),
        ([{"response": "a"}], ["--min-repeats", 2], "min_repeats must be at least 3"),
        ([{"response": "a"}], ["--confidence", 95], "confidence must lie between 0 and 1"),
    ],
)
def test_bad_input_to_repetition_is_named(tmp_path: Path, rows: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measured("--responses", write(tmp_path / "a.jsonl", rows), *options, kind="repetition")
