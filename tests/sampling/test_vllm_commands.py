"""Commands with a real vLLM, each in a process of its own, since vLLM loads its plugins once in a process.

The package must be installed, since vLLM finds the plugin by its entry point. `nox -s vllm` runs it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm_world import BLOCKS, CONTEXT, LETTERS, ON_CPU, WIDTH, save_model, serving

from sae_posttrain import FeatureSet
from sae_posttrain.feature_set import LayerFeatures, Provenance
from sae_posttrain.sampling import Endpoint
from sae_posttrain.steering.vllm_plugin import FEATURES
from sae_posttrain.texts import load_rows

pytest.importorskip("vllm")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PROMPTS = [LETTERS[start : start + 1 + start % 5] for start in range(0, 75, 6)]
IN_VLLM = ["--engine", "vllm", "--vllm-args", "enforce_eager=true", f"max_model_len={CONTEXT}"]
Run = Callable[..., None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, an adapter, prompts, and two layers of features, each with two of one target."""
    path = tmp_path_factory.mktemp("commands")
    save_model(path)
    torch.manual_seed(7)

    def layer(number: int) -> LayerFeatures:
        vectors = {name: torch.randn(2, WIDTH) for name in ("encoder", "direction")}
        numbers = {name: torch.ones(2) for name in ("bias", "score", "typical")}
        return LayerFeatures(number, (7, 9), ("repetition",) * 2, **vectors, **numbers, baselines={}, activations={})

    provenance = Provenance("model", WIDTH, BLOCKS, "sae", {}, "", "random")
    FeatureSet((layer(1), layer(2)), provenance).save(path / "features.safetensors")
    rows = [{"prompt": prompt, "language": "en"} for prompt in PROMPTS]
    (path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Endpoint]:
    """`vllm serve` with the features."""
    with serving(folder, **{FEATURES: str(folder / "features.safetensors")}) as endpoint:
        yield endpoint


@pytest.fixture
def run(folder: Path) -> Run:
    def ran(command: str, *more: Any) -> None:
        shared = ["--model", folder / "model", "--prompts", folder / "prompts.jsonl", "--temperature", 0, "--no-chat"]
        arguments = [*command.split(), *shared, "--dtype", "float32", *more]
        full = [sys.executable, "-m", "sae_posttrain", *map(str, arguments)]
        done = subprocess.run(full, capture_output=True, text=True, check=False, env={**os.environ, **ON_CPU})
        assert done.returncode == 0, done.stderr[-3000:]

    return ran


def test_a_lora_adapter_and_steering_act_in_the_same_call(folder: Path, run: Run, tmp_path: Path) -> None:
    """As PEFT and `steer` do in transformers: with neither, with one, and with both."""
    features = ["--features", folder / "features.safetensors", "--alpha", 3]
    adapter = ["--adapter", folder / "adapter"]
    found = {}
    for name, more in {
        "plain": [],
        "steered": features,
        "adapted": adapter,
        "both": [*features, *adapter],
        "steered in vLLM": [*features, *IN_VLLM],
        "both in vLLM": [*features, *adapter, *IN_VLLM],
    }.items():
        output = tmp_path / f"{name}.jsonl"
        run("measure repetition", "--output", output, "--max-new-tokens", 24, *more)
        found[name] = [row["response"] for row in load_rows(output)]
    assert found["steered in vLLM"] == found["steered"]
    assert found["both in vLLM"] == found["both"]
    assert len({tuple(found[name]) for name in ("plain", "steered", "adapted", "both")}) == 4


def nearly(value: Any) -> Any:
    """A number up to the rounding of the model's own."""
    return pytest.approx(value, rel=1e-3) if isinstance(value, float) else value


def calibration(output: Path) -> tuple[Any, Any, Any]:
    """The points, the responses without the engine's name, and the features that a calibration wrote."""
    points = json.loads(output.with_suffix(".calibration.json").read_text("utf-8"))["points"]
    rows = [{**row, "engine": ""} for row in load_rows(output.with_suffix(".calibration.jsonl"))]
    return points, rows, FeatureSet.load(output).sha256


def test_a_calibration_finds_the_same_with_every_engine(
    folder: Path, server: Endpoint, run: Run, tmp_path: Path
) -> None:
    """Layers and numbers of features are chosen by each request; perplexities come from vLLM's log-probabilities."""
    found = {}
    for name, more in {
        "transformers": [],
        "vllm": IN_VLLM,
        "server": ["--endpoint", server.url, "--served-model", server.model],
    }.items():
        output = tmp_path / f"{name}.safetensors"
        settings = ["--alphas", 2, 20, "--max-new-tokens", 24, "--min-length", 12, "--max-ratio", 1e6]
        run("calibrate", "--features", folder / "features.safetensors", "--output", output, *settings, *more)
        found[name] = calibration(output)
    points, rows, features = found.pop("transformers")
    assert len({(tuple(point["layers"]), point["top"]) for point in points}) == 6
    assert any(point["looped"] for point in points)
    for others, their_rows, their_features in found.values():
        assert their_rows == rows
        assert their_features == features
        for ours, theirs in zip(others, points, strict=True):
            assert ours == {name: nearly(value) for name, value in theirs.items()}


def test_loops_are_found_in_what_vllm_sampled(run: Run, tmp_path: Path) -> None:
    """Only what samples differs: the activations are transformers'."""
    save_model(tmp_path, spread=0.02)
    found = {}
    for name, more in {"transformers": [], "vllm": IN_VLLM}.items():
        output = tmp_path / f"{name}.safetensors"
        settings = ["--select", "dense", "--layers", 1, "--loops", 40, "--min-length", 8, "--max-new-tokens", 100]
        run("discover repetition", "--model", tmp_path / "model", "--output", output, *settings, *more)
        found[name] = output.with_suffix(".loops.jsonl").read_bytes(), FeatureSet.load(output).sha256
    assert found["vllm"] == found["transformers"]


def test_expected_switches_of_responses_that_vllm_sampled(folder: Path, run: Run, tmp_path: Path) -> None:
    rows = {}
    for name, more in {"transformers": [], "vllm": IN_VLLM}.items():
        output = tmp_path / f"{name}.jsonl"
        run("measure code-switching", "--expected", "--output", output, "--max-new-tokens", 24, *more)
        rows[name] = [{**row, "engine": ""} for row in load_rows(output)]
    assert rows["vllm"] == rows["transformers"]
    assert any(row["expected"]["any"] for row in rows["vllm"])
