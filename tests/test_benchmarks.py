"""The table of times is what the CSV files hold."""

from importlib import import_module
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired

import pytest
from scripts import load_script
from versions import CONTINUOUS_BATCHING_HAS_PAGES

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_the_table_of_times_is_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    table = import_module("_table")
    shown = (
        (BENCHMARKS / "results" / "README.md")
        .read_text(encoding="utf-8")
        .partition(table.BEGIN)[2]
        .partition(table.END)[0]
    )
    assert shown.strip() == table.markdown(table.timings()).strip(), "run python benchmarks/_table.py"
    assert shown.count("| GRPOTrainer |") == 2


def test_steered_generation_compares_like_with_like(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    steered_generation = import_module("steered_generation")
    group = steered_generation.Group("0.4M", 16, "cpu")
    steered_generation.check(group.dense, lambda: group.steered(steered_generation.ONE, group.everywhere))
    for unlike in (group.dense, lambda: group.again(steered_generation.GROUP)):  # no row steered, and all of them
        with pytest.raises(AssertionError, match="the plain group's"):
            steered_generation.check(group.dense, unlike)
    if CONTINUOUS_BATCHING_HAS_PAGES:
        assert [len(answer) for answer in group.continuous()] == [16] * steered_generation.GROUP


@pytest.mark.parametrize("rehearse", [True, False])
def test_every_script_for_a_gpu_is_run_though_one_fails(
    rehearse: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = load_script(BENCHMARKS / "gpu" / "run.py", "gpu_run")  # recipes have a run.py too
    ran: list[list[str]] = []

    def subprocess_run(command: list[str], *, timeout: float | None, check: bool) -> CompletedProcess[bytes]:
        ran.append(command)
        assert timeout == (None if rehearse else run.LIMIT)
        if len(ran) == 2:
            raise TimeoutExpired(command, 1)
        return CompletedProcess(command, returncode=3 if len(ran) == 1 else 0)

    monkeypatch.setattr(run, "find_spec", lambda name: None if name == "vllm" and rehearse else name)
    monkeypatch.setattr(run.subprocess, "run", subprocess_run)
    monkeypatch.setattr("sys.argv", ["run.py", *(["--rehearse"] if rehearse else [])])
    assert run.main() == 1
    told = capsys.readouterr().out
    assert "sasft_step.py: exit code 3" in told
    assert "steered_generation.py: stopped after" in told
    assert ("left out: vllm is not installed" in told) == rehearse
    assert ("steered_group_vllm.py: finished" in told) != rehearse
    for _, script, *options in ran:
        source = Path(script).read_text(encoding="utf-8")
        assert all(f'"{option}"' in source for option in options if option.startswith("--")), script
