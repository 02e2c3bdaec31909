"""`--help` of every command."""

from __future__ import annotations

from typing import Any

import pytest

from sae_posttrain.cli import main

COMMANDS = [
    *["calibrate", "sft", "grpo", "report", "steer", "demo", "diagnose"],
    *["discover language", "discover repetition", "discover tokens", "discover contrast"],
    *["features show", "features select", "sae info", "sae list", "sae train"],
    *["measure code-switching", "measure repetition", "measure language-confusion"],
    *["inspect contexts", "inspect switches"],
    *["discover class", "classify"],
    *["data redundancy", "data overlap", "data select"],
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_shown(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A per cent sign in a help text is a format character to argparse, and stops `--help`."""
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert f"usage: sae-posttrain {command}" in capsys.readouterr().out
