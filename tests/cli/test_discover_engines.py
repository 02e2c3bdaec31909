"""`discover repetition` with what samples: a server, a run that is stopped, and options that do not go together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from killed import interrupted_at, killed_in_a_fork, lines
from tiny_models import WIDTH, write_saes
from word_models import write_word_model

from sae_posttrain import FeatureSet
from sae_posttrain.cli import main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that falls into loops after about half of the prompts, its SAEs, and prompts."""
    folder = tmp_path_factory.mktemp("place")
    write_word_model(folder, "<pad>", "<eos>", prompts=12, initializer_range=0.02)
    write_saes(folder / "SAE-tiny-L0_10", range(2), d_sae=40, width=WIDTH, seed=2)
    return folder


def command(place: Path, output: Path, *more: Any) -> list[str]:
    paths = ["--model", place / "model", "--sae", place / "SAE-tiny-L0_10", "--prompts", place / "prompts.jsonl"]
    settings = ["--layers", 0, 1, "--min-length", 12, "--max-new-tokens", 40, "--loops", 6, "--batch-size", 2]
    return ["discover", "repetition", *map(str, [*paths, *settings, "--output", output, *more])]


def test_a_stopped_search_goes_on_where_it_was(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Killed at one moment, and interrupted at another."""
    whole, resumed = tmp_path / "whole.safetensors", tmp_path / "resumed.safetensors"
    kept = tmp_path / "resumed.partial.jsonl"
    assert main(command(place, whole)) == 0
    told = capsys.readouterr().out.replace("whole.", "resumed.")
    killed_in_a_fork(lambda: main(command(place, resumed)), kept, 2)
    before = lines(kept)
    with interrupted_at(2):
        assert main(command(place, resumed)) == 130
    assert 2 <= before == lines(kept) - 2
    assert f"{kept} holds {before + 2} responses; the same command goes on from there." in capsys.readouterr().err
    assert main(command(place, resumed)) == 0
    assert capsys.readouterr().out == told
    assert resumed.read_bytes() == whole.read_bytes()
    assert resumed.with_suffix(".loops.jsonl").read_bytes() == whole.with_suffix(".loops.jsonl").read_bytes()
    assert not kept.exists()


def test_another_search_is_not_continued(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "features.safetensors"
    with interrupted_at(2):
        assert main(command(place, output)) == 130
    assert main(command(place, output, "--temperature", 1)) == 2
    assert "holds the responses of another run: settings was" in capsys.readouterr().err


@pytest.mark.parametrize("with_ids", [True, False])
def test_a_server_samples_and_the_model_here_reads(
    with_ids: bool, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("openai")
    from openai_server import Answer, FakeServer, completion, refusal, served
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place / "model")

    def answer(path: str, body: dict[str, Any]) -> Answer:
        if tokenizer.decode(body["prompt"]).startswith("w3 "):
            return 400, refusal("No.")
        ids = body["prompt"][:2] * 20
        text = completion(tokenizer.decode(ids), ids if with_ids else None)
        return 200, {**text, "usage": {"prompt_tokens": 3, "completion_tokens": 40, "total_tokens": 43}}

    output = tmp_path / "features.safetensors"
    with served(FakeServer(answer, models=["loopy"])) as server:
        options = ["--endpoint", server.url, "--served-model", "loopy", "--timeout", 60, "--retries", 3]
        assert main(command(place, output, *options)) == 0
    assert "Found 6 loops in 11 responses (440 tokens)" in capsys.readouterr().out
    assert "1 responses could not be sampled and are left out. The first is the one to prompt 4: " in caplog.text
    assert {path for path, _ in server.asked} == {"/v1/completions"}
    prompts = [f"w{number} w{number + 1} w{number + 2}" for number in range(12)]
    assert sorted(body["prompt"] for _, body in server.asked) == sorted(tokenizer(one)["input_ids"] for one in prompts)
    rows = [json.loads(line) for line in output.with_suffix(".loops.jsonl").read_text("utf-8").splitlines()]
    assert [row["text"] for row in rows[:2]] == [f"{prompts[n]} " + " ".join([f"w{n} w{n + 1}"] * 20) for n in (0, 1)]
    assert FeatureSet.load(output).targets == ("repetition",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--endpoint", "nowhere"], "endpoint must be an address"),
        (["--endpoint", "http://localhost/v1", "--engine", "vllm"], "exclude each other"),
        (["--served-model", "m"], "--served-model needs --endpoint"),
        (["--timeout", "5"], "--timeout needs --endpoint"),
        (["--retries", "5"], "--retries needs --endpoint"),
        (["--endpoint", "http://localhost/v1", "--retries", "-1"], "retries must be at least 0"),
        (["--endpoint", "http://localhost/v1", "--timeout", "0"], "timeout must be above 0"),
        (["--tensor-parallel-size", "2"], "need --engine vllm"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], message: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(place, tmp_path / "features.safetensors", *options)) == 2
    assert message in capsys.readouterr().err


def test_given_texts_need_no_engine(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = command(place, tmp_path / "features.safetensors", "--engine", "vllm")
    given[given.index("--prompts")] = "--texts"
    assert main(given) == 2
    assert "with --texts nothing is sampled" in capsys.readouterr().err
