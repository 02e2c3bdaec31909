"""`sae-posttrain discover repetition` end to end: from prompts and from texts, in one process and in two."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import WIDTH, write_saes
from word_models import write_word_model

from sae_posttrain import FeatureSet
from sae_posttrain.cli import main

LOOPING = [f"w20 w21 {'w5 w6 w7 ' * 6}", f"w30 w31 w32 {'w8 w9 ' * 8}"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that falls into loops after about half of the prompts, its SAEs, prompts and texts."""
    folder = tmp_path_factory.mktemp("place")
    write_word_model(folder, "<pad>", "<eos>", prompts=12, initializer_range=0.02)
    write_saes(folder / "SAE-tiny-L0_10", range(2), d_sae=40, width=WIDTH, seed=2)
    (folder / "loops.txt").write_text("\n".join([*LOOPING, "w1 w2 w3 w4 w50"]), encoding="utf-8")
    (folder / "ordinary.txt").write_text("w1 w2 w3 w4 w50", encoding="utf-8")
    return folder


def arguments(place: Path, output: Path, *source: str | Path) -> list[str]:
    paths = ["--model", place / "model", "--sae", place / "SAE-tiny-L0_10", "--output", output, *source]
    settings = ["--layers", "0", "1", "--min-length", "12", "--max-new-tokens", "40", "--loops", "4"]
    return ["discover", "repetition", *map(str, paths), *settings]


def test_prompts_are_sampled_until_enough_loop(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "features.safetensors"
    assert main(arguments(place, output, "--prompts", place / "prompts.jsonl")) == 0
    features, printed = FeatureSet.load(output), capsys.readouterr().out
    assert features.targets == ("repetition",)
    assert features.provenance.selection == "repetition contrast"
    assert features.summary() in printed
    assert "Found 4 loops in 8 responses" in printed


def test_texts_need_no_sampling(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "features.safetensors"
    command = arguments(place, output, "--texts", place / "loops.txt")
    assert main([*command, "--select", "random"]) == 0
    assert FeatureSet.load(output).provenance.selection == "random"
    assert "responses" not in capsys.readouterr().out


def test_the_dense_direction_needs_no_sae(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "features.safetensors"
    command = arguments(place, output, "--texts", place / "loops.txt", "--select", "dense")
    assert main(command) == 2
    assert "--select dense takes no --sae." in capsys.readouterr().err
    sae = command.index("--sae")
    assert main([*command[:sae], *command[sae + 2 :]]) == 0
    assert FeatureSet.load(output).provenance.selection == "dense contrast"
    assert main([*command[:sae], *command[sae + 2 :], "--select", "contrast"]) == 2
    assert "--select contrast needs --sae." in capsys.readouterr().err


def test_two_processes_find_what_one_finds(place: Path, tmp_path: Path) -> None:
    source = ("--prompts", place / "prompts.jsonl", "--batch-size", "2")
    assert main(arguments(place, tmp_path / "one.safetensors", *source)) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launch += ["--tee", "3", "--log-dir", str(tmp_path / "logs")]
    command = [*launch, "-m", "sae_posttrain", *arguments(place, tmp_path / "two.safetensors", *source)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "ACCELERATE_USE_CPU": "true"})
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "logs").rglob("1/stdout.log")), "there was no second process"
    assert done.stdout.count(f"Wrote {tmp_path / 'two.safetensors'}") == 1
    assert done.stdout.count("Wrote them to") == 1  # the loops that were sampled
    one, two = FeatureSet.load(tmp_path / "one.safetensors"), FeatureSet.load(tmp_path / "two.safetensors")
    assert two.provenance.texts_sha256 == one.provenance.texts_sha256
    for ours, theirs in zip(two.layers, one.layers, strict=True):
        assert ours.ids == theirs.ids
        assert torch.allclose(ours.score, theirs.score, atol=1e-6)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (["--texts", "ordinary.txt"], "None of 1 texts has a loop"),
        (["--prompts", "prompts.jsonl", "--min-repeats", "41", "--min-length", "40"], "Give more prompts"),
        (["--prompts", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_code_2(
    source: list[str], message: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, name, *rest = source
    assert main([*arguments(place, tmp_path / "features.safetensors", kind, place / name), *rest]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "features.safetensors").exists()
