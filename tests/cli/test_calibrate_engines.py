"""`calibrate` with what samples and steers: a server, and a run that is stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from killed import interrupted_at, killed_in_a_fork, lines
from tiny_models import BLOCKS, WIDTH
from word_models import write_word_model

from sae_posttrain import FeatureSet
from sae_posttrain.cli import main
from sae_posttrain.feature_set import LayerFeatures, Provenance
from sae_posttrain.steering.vllm_plugin import FEATURES


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that loops only when pushed, two layers of features to push it with, and prompts."""
    folder = tmp_path_factory.mktemp("place")
    write_word_model(folder, "<pad>", prompts=5, initializer_range=0.3)
    torch.manual_seed(5)

    def layer(number: int) -> LayerFeatures:
        vectors = {name: torch.randn(2, WIDTH) for name in ("encoder", "direction")}
        numbers = {name: torch.ones(2) for name in ("bias", "score", "typical")}
        return LayerFeatures(number, (7, 9), ("repetition",) * 2, **vectors, **numbers, baselines={}, activations={})

    provenance = Provenance("model", WIDTH, BLOCKS, "owner/sae", {}, "", "repetition contrast")
    FeatureSet((layer(1), layer(3)), provenance).save(folder / "features.safetensors")
    return folder


def command(place: Path, output: Path, *more: Any) -> list[str]:
    files = {"--model": "model", "--features": "features.safetensors", "--prompts": "prompts.jsonl"}
    paths = [part for option, name in files.items() for part in (option, place / name)]
    settings = ["--temperature", 0, "--max-new-tokens", 24, "--min-length", 12, "--max-ratio", 1000]
    return ["calibrate", *map(str, [*paths, "--output", output, *settings, "--alphas", 4, 50, "--refine", 1, *more])]


def written(output: Path) -> list[Any]:
    """What a calibration wrote, without the engine's name."""
    curve = json.loads(output.with_suffix(".calibration.json").read_text("utf-8"))
    rows = [json.loads(line) for line in output.with_suffix(".calibration.jsonl").read_text("utf-8").splitlines()]
    return [curve, [{**row, "engine": ""} for row in rows], FeatureSet.load(output).sha256]


def nearly(value: Any) -> Any:
    """A number up to the rounding of the model's own."""
    return pytest.approx(value, rel=1e-4) if isinstance(value, float) else value


@contextmanager
def steering_server(place: Path, *, steers: bool = True) -> Iterator[Any]:
    """As vLLM with the plugin: it steers as each request says, and scores prompts."""
    from openai_server import Answer, FakeServer, completion, served
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sae_posttrain.sampling import Response, SampleRequest, SamplingSettings
    from sae_posttrain.steering.steered_engine import steered_engine

    model, tokenizer = (kind.from_pretrained(place / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    engine = steered_engine(model, tokenizer, FeatureSet.load(place / "features.safetensors"), 1)

    def answer(path: str, body: dict[str, Any]) -> Answer:
        prompt = body["prompt"]
        if "prompt_logprobs" in body:
            (found,) = engine.logprobs([(prompt[:1], prompt[1:])])
            scores = [{str(token): {"logprob": one}} for token, one in zip(prompt[1:], found, strict=True)]
            scored = completion("")
            scored["choices"][0]["prompt_logprobs"] = [None, *scores]
            return 200, scored
        request = SampleRequest(prompt, body["seed"], body.get("vllm_xargs", {}) if steers else {})
        settings = SamplingSettings(body["temperature"], 1.0, body["max_tokens"])
        ((_, one),) = next(iter(engine.sample([request], settings)))
        assert isinstance(one, Response)
        usage = {"prompt_tokens": 1, "completion_tokens": one.tokens, "total_tokens": 1}
        return 200, {**completion(one.text, list(one.ids)), "usage": usage}

    with served(FakeServer(answer, models=["tiny"])) as server:
        yield server


def test_a_server_that_steers_gives_the_same_curve(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openai")
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    assert main(command(place, here, "--batch-size", 1)) == 0
    with steering_server(place) as server:
        options = ["--endpoint", server.url, "--served-model", "tiny", "--concurrency", 1]
        assert main(command(place, there, *options)) == 0
    curve, *rest = written(there)
    points = written(here)[0]["points"]
    assert rest == written(here)[1:], "the same responses and the same features"
    for ours, theirs in zip(curve["points"], points, strict=True):
        assert ours == {name: nearly(value) for name, value in theirs.items()}
    assert len({(tuple(point["layers"]), point["top"]) for point in points}) == 6, "layers and numbers of features"
    asked = [body.get("vllm_xargs", {}) for _, body in server.asked]
    assert {one.get("steering_layers") for one in asked} == {"1", "3", None}
    assert {one.get("steering_top") for one in asked} == {1, None}


def test_a_server_that_does_not_steer_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openai")
    output = tmp_path / "features.safetensors"
    with steering_server(place, steers=False) as server:
        assert main(command(place, output, "--endpoint", server.url, "--served-model", "tiny")) == 2
    told = capsys.readouterr().err
    assert "does not steer with these features" in told
    assert f"start vLLM's server with the environment variable {FEATURES}=FILE" in told
    assert len(server.asked) == 3, "it is found out before anything else is sampled"


def test_a_stopped_calibration_goes_on_where_it_was(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed at one moment, and interrupted at another."""
    whole, resumed = tmp_path / "whole.safetensors", tmp_path / "resumed.safetensors"
    kept = tmp_path / "resumed.partial.jsonl"
    small = ("--batch-size", 5)
    assert main(command(place, whole, *small)) == 0
    told = capsys.readouterr().out.replace("whole.", "resumed.")
    killed_in_a_fork(lambda: main(command(place, resumed, *small)), kept, 10)
    before = lines(kept)
    with interrupted_at(3):
        assert main(command(place, resumed, *small)) == 130
    assert 10 <= before == lines(kept) - 10
    assert "the same command goes on from there." in capsys.readouterr().err
    assert main(command(place, resumed, *small)) == 0
    assert capsys.readouterr().out == told
    assert written(resumed) == written(whole)
    assert not kept.exists()


def test_more_alphas_go_on_with_what_is_there_and_other_features_do_not(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, other = tmp_path / "out.safetensors", tmp_path / "other.safetensors"
    with interrupted_at(4):
        assert main(command(place, output)) == 130
    FeatureSet.load(place / "features.safetensors").select(layers=[3]).save(other)
    assert main([*command(place, output), "--features", str(other)]) == 2
    assert "holds the responses of another run: features was" in capsys.readouterr().err
    before = lines(output.with_suffix(".partial.jsonl"))
    assert main([*command(place, output), "--alphas", "4", "50", "60"]) == 0
    assert f"holds {before} responses; the run goes on from there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--endpoint", "http://localhost/v1", "--adapter", "a"], "--adapter cannot be used with --endpoint"),
        (["--endpoint", "http://localhost/v1", "--engine", "vllm"], "exclude each other"),
        (["--endpoint", ""], "--endpoint must be an address"),
        (["--retries", "5"], "--retries needs --endpoint"),
        (["--vllm-args", "a=1"], "need --engine vllm"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], message: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(place, tmp_path / "features.safetensors", *options)) == 2
    assert message in capsys.readouterr().err


def test_ctrl_c_before_there_is_a_response_needs_no_traceback(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sae_posttrain.cli.calibrate.read_rows", interrupted)
    assert main(command(place, tmp_path / "features.safetensors")) == 130
    assert capsys.readouterr().err == "sae-posttrain: stopped.\n"
