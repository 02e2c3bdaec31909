"""`measure` with what samples: a server, and the options of every engine."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from measure_cases import measured, write
from steering_cases import feature_set

from sae_posttrain.cli.engines import steered_by
from sae_posttrain.texts import load_rows

PROMPTS = [{"prompt": text, "language": "en"} for text in ("ab", "cd", "long")]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return Path(write(tmp_path / "prompts.jsonl", PROMPTS))


def test_a_server_answers_and_a_failed_prompt_is_tried_again(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    from openai_server import Answer, FakeServer, chat, refusal, served

    monkeypatch.setenv("MY_KEY", "sk-test-1234567890")
    short = [True]

    def answer(path: str, body: dict[str, Any]) -> Answer:
        asked = body["messages"][-1]["content"]
        if asked == "long" and short[0]:
            return 400, refusal("The context is too short.")
        return 200, chat(f"{asked} 是", "length", reasoning_content="hm")

    output = tmp_path / "out.jsonl"
    options = ["--prompts", prompts, "--output", output, "--temperature", 0.5, "--samples", 2, "--json"]
    options += ["--chat-template-args", "enable_thinking=false", "--system", "Be brief.", "--stop", "END"]
    with served(FakeServer(answer)) as server:
        server_options = ["--endpoint", server.url, "--model", "tiny", "--api-key-variable", "MY_KEY"]
        assert measured(*server_options, *options) == 0
        told = capsys.readouterr()
        assert "2 responses could not be sampled and are left out. The first is response 1 to prompt 3 of 3" in told.err
        assert "The context is too short. Run the same command again" in told.err
        report = json.loads(told.out)
        assert report["overall"]["total"] == 4
        assert (report["endpoint"], report["system"]) == (server.url, "Be brief.")
        assert report["chat_template_args"] == {"enable_thinking": False}
        short[0] = False
        server.asked.clear()
        assert measured(*server_options, *options) == 0
        assert len(server.asked) == 2, "only the failed ones are asked again"
    rows = load_rows(output)
    assert [row["prompt"] for row in rows] == ["ab", "ab", "cd", "cd", "long", "long"]
    assert {row["response"] for row in rows[:2]} == {"<think>hm</think>ab 是"}
    assert {(row["finish_reason"], row["tokens"], row["engine"]) for row in rows} == {("length", 3, "vllm 9.9")}
    assert not output.with_suffix(".partial.jsonl").exists()
    assert "sk-test" not in "".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("*.jsonl"))


def test_several_lengths_are_asked_of_a_server_one_by_one(prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openai")
    from openai_server import FakeServer, chat, served

    with served(FakeServer(lambda path, body: (200, chat("a" * body["max_tokens"])))) as server:
        options = ["--temperature", 0, "--max-new-tokens", 8, 4, "--limit", 1, "--json"]
        assert measured("--endpoint", server.url, "--model", "tiny", "--prompts", prompts, *options) == 0
    assert [body["max_tokens"] for _, body in server.asked] == [4, 8]
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert [one["max_new_tokens"] for one in settings] == [4, 8]


def test_each_response_of_a_model_says_what_sampled_it(model_folder: Path, prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    options = ["--limit", 2, "--samples", 2, "--max-new-tokens", 4, "--top-k", 1, "--output", output]
    assert measured("--model", model_folder, "--prompts", prompts, *options) == 0
    rows = load_rows(output)
    assert all(row["engine"].startswith("transformers ") and row["tokens"] <= 4 for row in rows)
    assert [row["response"] for row in rows[::2]] == [row["response"] for row in rows[1::2]], "top_k 1 is greedy"


def test_features_steer_the_responses(model_folder: Path, prompts: Path, tmp_path: Path) -> None:
    features = tmp_path / "features.safetensors"
    feature_set(16, 2).select(layers=[1]).save(features)
    found: list[list[str]] = []
    for more in ([], ["--features", features, "--alpha", 0], ["--features", features, "--alpha", 50]):
        output = tmp_path / f"{len(found)}.jsonl"
        options = ["--temperature", 0, "--max-new-tokens", 8, "--output", output, *more]
        assert measured("--model", model_folder, "--prompts", prompts, *options) == 0
        found.append([row["response"] for row in load_rows(output)])
    assert found[0] == found[1] != found[2]


def test_other_features_under_the_same_name_are_another_run(tmp_path: Path) -> None:
    file = tmp_path / "features.safetensors"
    given = Namespace(features=str(file), alpha=2.0)
    told, both = [], feature_set(16, 3)
    for layer in (1, 2, 2):
        both.select(layers=[layer]).save(file)
        told.append(steered_by(given))
    assert told[0] != told[1] == told[2]
    assert steered_by(Namespace(features=None, alpha=None)) == {"features": None, "alpha": None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--endpoint", "nowhere"], "endpoint must be an address"),
        (["--endpoint", "http://localhost/v1", "--engine", "vllm"], "exclude each other"),
        (["--endpoint", "http://localhost/v1", "--adapter", "a"], "start the server with it"),
        (["--api-key-variable", "KEY"], "needs --endpoint"),
        (["--tensor-parallel-size", "2"], "need --engine vllm"),
        (["--alpha", "2"], "--alpha needs --features"),
        (["--top-k", "-1"], "top_k must be at least 0"),
        (["--expected", "--top-k", "5"], "--top-k cannot be used with --expected: probabilities are computed for"),
        (["--expected", "--features", "f"], "--features cannot be used with --expected: .* without steering"),
        (["--timeout", "5"], "--timeout needs --endpoint"),
        (["--retries", "5"], "--retries needs --endpoint"),
        (["--endpoint", "http://localhost/v1", "--timeout", "0"], "timeout must be above 0"),
        (["--chat-template-args", "enable_thinking=false", "--no-chat"], "needs the chat template"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    model_folder: Path, prompts: Path, options: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measured("--model", model_folder, "--prompts", prompts, "--max-new-tokens", 2, *options)


def test_a_template_argument_needs_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        measured("--model", "m", "--prompts", "p", "--chat-template-args", "enable_thinking")
    assert "expected NAME=VALUE, got 'enable_thinking'" in capsys.readouterr().err
