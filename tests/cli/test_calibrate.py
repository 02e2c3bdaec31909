"""`sae-posttrain calibrate` on files: the curve, the set it writes, and the refusal to write one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import BLOCKS, WIDTH
from word_models import write_word_model

from sae_posttrain import FeatureSet
from sae_posttrain.cli import main
from sae_posttrain.feature_set import LayerFeatures, Provenance


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that loops only when pushed, features to push it with, and prompts."""
    folder = tmp_path_factory.mktemp("place")
    write_word_model(folder, "<pad>", prompts=6, initializer_range=0.3)
    torch.manual_seed(5)
    vectors = {name: torch.randn(1, WIDTH) for name in ("encoder", "direction")}
    numbers = {name: torch.ones(1) for name in ("bias", "score", "typical")}
    layer = LayerFeatures(3, (7,), ("repetition",), **vectors, **numbers, baselines={}, activations={})
    provenance = Provenance("model", WIDTH, BLOCKS, "owner/sae", {}, "", "repetition contrast")
    FeatureSet((layer,), provenance).save(folder / "features.safetensors")
    return folder


def arguments(place: Path, output: Path, *alphas: str) -> list[str]:
    files = {"--model": "model", "--features": "features.safetensors", "--prompts": "prompts.jsonl"}
    settings = ["--temperature", "0", "--max-new-tokens", "24", "--min-length", "12", "--max-ratio", "1000"]
    paths = [part for option, name in files.items() for part in (option, str(place / name))]
    return ["calibrate", *paths, "--output", str(output), *settings, "--alphas", *alphas]


def test_the_curve_is_printed_and_alpha_written(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "deep" / "calibrated.safetensors"
    assert main(arguments(place, output, "0.01", "50", "100")) == 0
    printed = capsys.readouterr().out
    assert FeatureSet.load(output).alpha == 50
    best = [line for line in printed.splitlines() if "<- best" in line]
    assert [line.split()[:5] for line in best] == [["3", "all", "0", "50", "6/6"]]
    curve, responses = output.with_suffix(".calibration.json"), output.with_suffix(".calibration.jsonl")
    assert "Best is alpha 50 of layer 3 at temperature 0: 100% of the responses loop (0% without steering)" in printed
    assert f"Wrote {output}, {curve} and {responses}" in printed
    assert json.loads(curve.read_text(encoding="utf-8"))["best"]["alpha"] == 50
    rows = [json.loads(line) for line in responses.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 6 * (1 + 3)
    assert sum(row["looped"] for row in rows if row["alpha"] == 50) == 6
    assert {row["finish_reason"] for row in rows} == {"length"}
    assert {row["tokens"] for row in rows} == {24}
    assert rows[0]["prompt"] == "w0 w1 w2"
    assert main(["measure", "repetition", "--responses", str(responses), "--min-length", "20", "--by", "alpha"]) == 0


def test_the_target_need_not_be_reached(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "calibrated.safetensors"
    assert main([*arguments(place, output, "8", "16", "50"), "--max-ratio", "0.01"]) == 0
    printed = capsys.readouterr().out
    assert "The target was 90% at no more than 0.01 times." in printed
    assert FeatureSet.load(output).alpha in (8, 16, 50)
    assert json.loads(output.with_suffix(".calibration.json").read_text(encoding="utf-8"))["reached"] is False


def test_json_can_be_read_and_the_set_overwritten(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "features.safetensors"
    copy.write_bytes((place / "features.safetensors").read_bytes())
    command = [*arguments(place, copy, "50"), "--features", str(copy), "--limit", "3", "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["best"]["alpha"] == FeatureSet.load(copy).alpha == 50
    assert [point["total"] for point in (found["plain"], *found["points"])] == [3, 3]


def test_nothing_is_written_where_nothing_loops(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "calibrated.safetensors"
    output.write_bytes((place / "features.safetensors").read_bytes())  # of an earlier run
    assert main(arguments(place, output, "0.01")) == 1
    printed = capsys.readouterr()
    assert f"Removed {output}, which an earlier run wrote" in printed.err
    assert not output.exists()
    copy = tmp_path / "features.safetensors"
    copy.write_bytes((place / "features.safetensors").read_bytes())
    assert main([*arguments(place, copy, "0.01"), "--features", str(copy)]) == 1
    assert copy.exists()  # what was read is not removed
    assert "Removed" not in capsys.readouterr().err
    assert "0.01" in printed.out
    curve = output.with_suffix(".calibration.json")
    assert f"No feature set was written, only {curve} and {curve}l. Nothing loops more than without" in printed.err
    assert not output.exists()
    assert json.loads(curve.read_text(encoding="utf-8"))["best"] is None


def test_two_processes_measure_what_one_measures(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(place, tmp_path / "one.safetensors", "4", "50"), "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launch += ["--tee", "3", "--log-dir", str(tmp_path / "logs")]
    command = [*launch, "-m", "sae_posttrain", *arguments(place, tmp_path / "two.safetensors", "4", "50")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "ACCELERATE_USE_CPU": "true"})
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "logs").rglob("1/stdout.log")), "there was no second process"
    assert done.stdout.count("Wrote") == 1
    for point in one["points"]:
        looped = f"{point['looped']}/{point['total']}"
        assert any(line.split()[4:6] == [f"{point['alpha']:g}", looped] for line in done.stdout.splitlines()), looped


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--features", "nowhere.safetensors"], "no feature set at nowhere.safetensors"),
        (["--prompts", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--model", "nowhere/at-all"], "cannot load nowhere/at-all"),
        (["--output", "."], "is a folder"),
        (["--alphas", "-1"], "expected finite numbers above 0"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_code_2(
    extra: list[str], message: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(place, tmp_path / "calibrated.safetensors", "1"), *extra]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
