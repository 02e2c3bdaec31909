"""Which commands divide their work among the processes of `accelerate launch`, and that only the main one is heard."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from word_features import write_word_features

from sae_posttrain import FeatureSet
from sae_posttrain.artefacts import CLASSES, MODEL_DIFFS
from sae_posttrain.cli import main, parser_of_all
from sae_posttrain.cli.processes import check_processes

from .test_classify import ANIMALS, FILLER, TOOLS, rows, write_rows

SHARED = {
    *("calibrate", "classify", "discover class", "discover contrast", "discover language", "discover repetition"),
    *("data coverage", "data missing", "data overlap", "data redundancy", "data select", "data verify"),
    *("grpo", "inspect diff", "measure code-switching", "measure language-confusion", "measure repetition", "sft"),
}
ALONE = {
    *("data explain", "data synthesize", "demo", "diagnose", "discover tokens", "features select", "features show"),
    *("inspect contexts", "inspect switches", "report", "sae info", "sae list", "sae train", "steer"),
}


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield parser
    for action in below:
        for one in action.choices.values():
            yield from leaves(one)


def test_every_command_divides_its_work_or_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new command must be put into one of the two sets, so that somebody decides."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    found: dict[str, bool] = {}
    for parser in leaves(parser_of_all()):
        args = argparse.Namespace(**parser._defaults)
        asked = {"model": "m", "engine": "transformers", "endpoint": None, "responses": None}
        args = argparse.Namespace(**asked, **vars(args))
        name = args.prog.removeprefix("sae-posttrain ")
        monkeypatch.setenv("RANK", "0")
        try:
            found[name] = check_processes(args)
        except ValueError as error:
            assert f"`sae-posttrain {name}` does not divide its work among processes" in str(error)  # noqa: PT017
            monkeypatch.setenv("RANK", "1")
            found[name] = check_processes(args)
    assert {name for name, shares in found.items() if shares} == SHARED
    assert {name for name, shares in found.items() if not shares} == ALONE


def test_measuring_given_responses_is_for_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    responses = write_rows(tmp_path / "responses.jsonl", [{"response": "Fine."}])
    command = ["measure", "repetition", "--responses", str(responses)]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert main(command) == 2
    told = capsys.readouterr()
    assert "`sae-posttrain measure repetition` with these options does not divide its work" in told.err
    monkeypatch.setenv("RANK", "1")
    assert main(command) == 2
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main(command) == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    write_word_features(folder, FILLER, [*ANIMALS, *TOOLS])
    shutil.copytree(folder / "model", folder / "tuned")
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    model.save_pretrained(folder / "tuned")
    write_rows(folder / "train.jsonl", rows(0, 24))
    write_rows(folder / "test.jsonl", rows(1, 13))
    for name, words in (("animals", ANIMALS), ("tools", TOOLS)):
        write_rows(folder / f"{name}.jsonl", [{"text": f"the big {word} is {word}"} for word in words * 3])
    return folder


def commands(place: Path, output: Path) -> list[list[str]]:
    """Each of the commands that read texts with a model, on small files."""
    model = ["--model", str(place / "model")]
    saes = ["--sae", str(place / "SAE-tiny-L0_4"), "--layers", "0", "1"]
    train, test = str(place / "train.jsonl"), str(place / "test.jsonl")
    animals, tools = str(place / "animals.jsonl"), str(place / "tools.jsonl")
    found, contrast = str(output / "class.safetensors"), str(output / "contrast.safetensors")
    base, tuned, diff = str(place / "model"), str(place / "tuned"), str(output / "diff.json")
    few = ["--permutations", "20", "--passages", "1"]
    return [
        ["discover", "class", "--rows", train, "--test", f"t={test}", "--draws", "2", *model, *saes, "--output", found],
        ["classify", test, *model, "--features", found, "--output", str(output / "verdicts.jsonl")],
        ["discover", "contrast", "--positive", animals, "--negative", tools, *model, *saes, "--output", contrast],
        ["inspect", "diff", base, tuned, *saes, "--texts", f"a={animals}", f"b={tools}", *few, "--output", diff],
        ["steer", *model, "--features", found, "--prompt", "the big"],
    ]


def test_two_processes_find_what_one_finds_and_tell_it_once(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert [main(command) for command in commands(place, one)[:-1]] == [0, 0, 0, 0]
    told = capsys.readouterr().out
    (tmp_path / "commands.json").write_text(json.dumps(commands(place, two)), encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = str(Path(__file__).with_name("several_commands.py"))
    done = subprocess.run(
        [*launch, script, str(tmp_path / "commands.json")],
        capture_output=True,
        text=True,
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
    )
    assert done.returncode == 0, done.stderr
    assert "process 1: [0, 0, 0, 0, 2]" in done.stderr
    assert done.stderr.count("`sae-posttrain steer` does not divide its work among processes") == 1
    assert done.stdout.replace(str(two), str(one)) == told
    for name in ("class.safetensors", "contrast.safetensors"):
        mine, theirs = (FeatureSet.load(folder / name) for folder in (one, two))
        assert [layer.ids for layer in mine.layers] == [layer.ids for layer in theirs.layers]
    for name in (f"class{CLASSES}", "verdicts.jsonl"):
        assert (one / name).read_text(encoding="utf-8") == (two / name).read_text(encoding="utf-8")
    (diff,), (other,) = (json.loads((folder / "diff.json").read_text())[MODEL_DIFFS] for folder in (one, two))
    assert diff == other
