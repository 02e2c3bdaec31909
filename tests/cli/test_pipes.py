"""`sae-posttrain … | head`: who reads the output may leave before its end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from measure_cases import RESPONSES, write


def left_by_its_reader(*arguments: Any, code: Any = None) -> Any:
    """The exit code and the errors of a command whose output nobody reads."""
    command = [sys.executable, *(["-c", code] if code else ["-m", "sae_posttrain"]), *map(str, arguments)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    running.stdout.close()
    _, errors = running.communicate(timeout=300)
    return running.returncode, errors


@pytest.mark.parametrize(
    "arguments",
    [
        ["measure", "code-switching", "--responses", "FILE"],
        ["measure", "code-switching", "--responses", "FILE", "--csv"],
        ["measure", "repetition", "--responses", "FILE", "--json", "--fail-above", "0.01"],
        ["sae", "list"],
        ["measure", "code-switching", "--help"],
        ["--version"],
    ],
    ids=" ".join,
)
def test_a_closed_pipe_is_no_error(tmp_path: Path, arguments: Any) -> None:
    path = write(tmp_path / "a.jsonl", RESPONSES)
    assert left_by_its_reader(*[path if part == "FILE" else part for part in arguments]) == (141, "")


def test_a_mistake_is_still_named() -> None:
    code, errors = left_by_its_reader("measure", "code-switching", "--responses", "none.jsonl")
    assert code == 2
    assert errors.startswith("sae-posttrain: error: no file none.jsonl")


def test_another_broken_pipe_is_an_error() -> None:
    """Such as that of a server that hangs up."""
    script = """
import sys
from sae_posttrain import cli

def run(args):
    raise BrokenPipeError("the server hung up")

cli.steer.run = run
args = ["steer", "--model", "m", "--features", "f", "--prompt", "p"]
sys.stdout = sys.stderr
sys.exit(cli.main(args))
"""
    code, errors = left_by_its_reader(code=script)
    assert (code, errors) == (2, "sae-posttrain: error: the server hung up\n")
