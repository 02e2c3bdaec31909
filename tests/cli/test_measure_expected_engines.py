"""`measure code-switching --expected` on responses that another engine samples, and when it is stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from killed import interrupted_at, lines
from measure_cases import measured, write

from sae_posttrain.texts import load_rows

PROMPTS = [{"prompt": text, "language": "en"} for text in ("abc", "f", "de", "ccb")]


@pytest.fixture
def options(model_folder: Path, tmp_path: Path) -> list[Any]:
    prompts = write(tmp_path / "prompts.jsonl", PROMPTS)
    return ["--expected", "--model", model_folder, "--prompts", prompts, "--max-new-tokens", 6, "--top-p", 1]


def told(output: Path) -> list[dict[str, Any]]:
    return [{**row, "engine": "", "expected": row["expected"]["any"]} for row in load_rows(output)]


@pytest.mark.parametrize("with_ids", [True, False])
def test_a_server_samples_and_the_model_here_gives_the_probabilities(
    with_ids: bool, options: list[Any], model_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openai")
    from openai_server import Answer, FakeServer, completion, served
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sae_posttrain.sampling import SamplingSettings, sample_responses

    model, tokenizer = (kind.from_pretrained(model_folder) for kind in (AutoModelForCausalLM, AutoTokenizer))

    def answer(path: str, body: dict[str, Any]) -> Answer:
        greedy = SamplingSettings(0.0, 1.0, body["max_tokens"])
        ((one,),) = sample_responses(model, tokenizer, [body["prompt"]], greedy, progress=False)
        found = completion(one.text, list(one.ids) if with_ids else None)
        found["choices"][0]["finish_reason"] = one.finish_reason
        return 200, {**found, "usage": {"prompt_tokens": 1, "completion_tokens": one.tokens, "total_tokens": 1}}

    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    assert measured(*options, "--temperature", 0, "--output", here) == 0
    with served(FakeServer(answer, models=["tiny"])) as server:
        of_server = ["--endpoint", server.url, "--served-model", "tiny", "--concurrency", 1]
        assert measured(*options, *of_server, "--temperature", 0, "--output", there) == 0
    assert told(there) == told(here)
    assert {row["engine"] for row in load_rows(there)} == {"vllm 9.9"}
    assert not list(tmp_path.glob("*.partial.jsonl"))


def test_a_stopped_run_goes_on_where_it_was(
    options: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    more = ["--samples", 3, "--batch-size", 2, "--temperature", 1, 0.7]
    assert measured(*options, *more, "--output", whole) == 0
    with interrupted_at(9):  # in the second temperature
        assert measured(*options, *more, "--output", resumed) == 130
    kept = tmp_path / "resumed.partial.jsonl"
    assert lines(kept) == 16
    assert f"{kept} holds 16 responses; the same command goes on from there." in capsys.readouterr().err
    assert measured(*options, *more, "--output", resumed) == 0
    assert resumed.read_bytes() == whole.read_bytes()
    assert not kept.exists()


def test_given_responses_need_no_engine(model_folder: Path, tmp_path: Path) -> None:
    given = write(tmp_path / "given.jsonl", [{**PROMPTS[0], "response": "a"}])
    with pytest.raises(ValueError, match=r"--engine needs --prompts: .* do not return those of the whole vocabulary"):
        measured("--expected", "--model", model_folder, "--responses", given, "--engine", "vllm")
