"""`measure` that is stopped: killed at any moment, interrupted, with another run's file, or by several processes."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from killed import interrupted_at, killed_in_a_fork, lines
from measure_cases import measured, write

from sae_posttrain.texts import load_rows

PROMPTS = [{"prompt": "abcdef"[: 1 + number % 6], "language": "en", "id": number} for number in range(12)]
SHORT = ("--samples", 2, "--max-new-tokens", 24, "--batch-size", 2, "--top-p", 0.9, "--seed", 3)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return Path(write(tmp_path / "prompts.jsonl", PROMPTS))


def command(model: Path, prompts: Path, output: Path, *more: Any) -> list[Any]:
    return ["--model", model, "--prompts", prompts, "--output", output, *SHORT, *more]


def test_killed_runs_end_with_the_same_file(
    model_folder: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    kept = tmp_path / "resumed.partial.jsonl"
    assert measured(*command(model_folder, prompts, whole, "--temperature", 1, 0.7)) == 0
    report = capsys.readouterr().out
    arguments = command(model_folder, prompts, resumed, "--temperature", 1, 0.7)
    for least in (0, 9, 30):
        killed_in_a_fork(lambda: measured(*arguments), kept, least)
        assert not resumed.exists()
    before = lines(kept)
    assert measured(*arguments) == 0
    told = capsys.readouterr()
    assert f"{kept} holds {before} responses; the run goes on from there." in told.err
    assert told.out == report
    assert resumed.read_bytes() == whole.read_bytes()
    assert len(load_rows(resumed)) == 48
    assert not kept.exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_processes_killed_at_random_moments_end_with_the_same_file(
    model_folder: Path, prompts: Path, tmp_path: Path
) -> None:
    """Real commands, killed anywhere between the first import and the last response: ten files."""
    run = [sys.executable, "-m", "sae_posttrain", "measure", "code-switching"]
    whole, rng = tmp_path / "whole.jsonl", random.Random(0)

    def started(output: Path) -> subprocess.Popen[bytes]:
        arguments = map(str, command(model_folder, prompts, output, "--samples", 20))
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([*run, *arguments], **quiet)  # type: ignore[call-overload,no-any-return]

    assert started(whole).wait() == 0
    moments = []
    for number in range(10):
        output = tmp_path / f"{number}.jsonl"
        kept, least = output.with_suffix(".partial.jsonl"), rng.randint(1, 220)
        process = started(output)
        while process.poll() is None and lines(kept) < least:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        moments.append(lines(kept))
        assert started(output).wait() == 0
        assert output.read_bytes() == whole.read_bytes()
        assert not kept.exists()
    assert len(set(moments)) > 5, moments


def test_another_run_is_refused(model_folder: Path, prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    given = command(model_folder, prompts, output)
    killed_in_a_fork(lambda: measured(*given), output.with_suffix(".partial.jsonl"), 3)
    with pytest.raises(ValueError, match=r"another run: settings was .*0.9.*, now .*0.5"):
        measured(*command(model_folder, prompts, output, "--top-p", 0.5))


def test_ctrl_c_reports_on_what_is_there(
    model_folder: Path,
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out.jsonl"
    with interrupted_at(4):
        code = measured(*command(model_folder, prompts, output, "--fail-above", 0.0, "--json"))
    told = capsys.readouterr()
    assert code == 130
    assert "Stopped: the report is on 6 of 24 responses. The same command goes on with the others." in told.err
    assert json.loads(told.out)["overall"]["total"] == 6
    assert not output.exists()
    assert lines(output.with_suffix(".partial.jsonl")) == 6
    assert measured(*command(model_folder, prompts, output)) == 0
    assert measured(*command(model_folder, prompts, tmp_path / "whole.jsonl")) == 0
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_two_processes_share_the_prompts_and_write_the_same_file(
    model_folder: Path, prompts: Path, tmp_path: Path
) -> None:
    from two_processes import launch

    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    assert measured(*command(model_folder, prompts, one)) == 0
    arguments = ["measure", "code-switching", *map(str, command(model_folder, prompts, two))]
    code, errors = launch("ddp", "sae_posttrain", *arguments)
    assert code == 0, errors
    assert two.read_bytes() == one.read_bytes()
    assert [path.name for path in tmp_path.glob("*.partial.jsonl")] == []
