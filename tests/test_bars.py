"""Bars that no terminal shows: a line a minute, no carriage return, whoever made the bar."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import tqdm
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from sae_posttrain import bars
from sae_posttrain.bars import LineStream, bars_in_lines, progress_bar
from sae_posttrain.cli import features, main
from sae_posttrain.sampling import SamplingProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every update is a minute after the one before."""
    monkeypatch.setattr(bars, "EVERY", 0.0)


def test_at_most_one_line_a_minute_and_one_at_the_end() -> None:
    now, stream = 0.0, io.StringIO()
    lines = LineStream(stream, 60.0, lambda: now)
    for second in range(150):
        now = float(second)
        lines.write(f"\r{second} of 150")
        lines.write("")
    lines.write("\n")
    assert stream.getvalue() == "60 of 150\n120 of 150\n149 of 150\n"


def test_what_ends_within_a_minute_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with SamplingProgress(8, 10) as progress:
        for _ in range(2):
            progress.start_batch(4)
            for _ in range(10):
                progress.step()
    assert list(progress_bar(range(1000))) == list(range(1000))
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("hurried")
def test_our_bars_and_the_trainer_s_print_whole_lines(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for _ in progress_bar(range(3), "texts"):
        pass
    ours = capsys.readouterr().err
    assert "\r" not in ours
    assert "3/3" in ours.splitlines()[-1]
    with bars_in_lines():
        train(TrainingArguments(str(tmp_path), use_cpu=True))
        for _ in tqdm.tqdm(range(2), "downloading"):
            for _ in tqdm.tqdm(range(2), "a part", leave=False):
                pass
    theirs = capsys.readouterr().err
    assert "\r" not in theirs
    assert "\n\n" not in theirs
    assert any("5/5" in line for line in theirs.splitlines())
    assert "downloading: 100%" in theirs.splitlines()[-1]


def train(args: TrainingArguments) -> None:
    """What transformers' callback is told during a training of five steps, with two logs."""
    callback, state, control = ProgressCallback(), TrainerState(max_steps=5), TrainerControl()
    callback.on_train_begin(args, state, control)
    for state.global_step in range(1, 6):
        callback.on_step_end(args, state, control)
        callback.on_log(args, state, control, logs={"loss": 1.0})
    callback.on_train_end(args, state, control)


def test_a_terminal_still_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    with bars_in_lines():
        for make in (progress_bar, tqdm.tqdm):
            list(make(range(3)))
    assert stream.getvalue().count("\r") >= 4


@pytest.mark.usefixtures("hurried")
def test_every_command_prints_lines_and_leaves_tqdm_as_it_was(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "run_show", lambda args: len(list(tqdm.tqdm(range(3)))))
    before = tqdm.tqdm.__init__
    assert main(["features", "show", "anything"]) == 3
    printed = capsys.readouterr().err
    assert "3/3" in printed
    assert "\r" not in printed
    assert tqdm.tqdm.__init__ is before
