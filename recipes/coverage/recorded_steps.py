"""Run the commands of a recipe once, and refuse to reuse what they wrote with other options or from other files."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from sae_posttrain.cli import main as command

UNRECORDED = ("--cache", "--endpoint", "--concurrency", "--batch-size", "--api-key-variable", "--timeout", "--retries")
"""Options that do not change what a command writes: the same model may be served at another address."""
RECORD = ".step.json"


def run_once(output: Path, words: Sequence[str]) -> str:
    """Run a command unless it has written its output already, with the same options from the same files.

    What it printed is kept beside the output, with its options and the sha256 of each file that they name.

    Args:
        output: the file that the command writes.
        words: the command, such as `["data", "missing", …]`.

    Returns:
        What the command printed.

    Raises:
        ValueError: the output was written with other options, or from files with other contents.
        SystemExit: the command failed.
    """
    kept, now = output.with_suffix(RECORD), described(output, words)
    if output.exists() and kept.exists():
        then = json.loads(kept.read_text(encoding="utf-8"))
        if then["step"] != now:
            raise ValueError(
                f"{output} was made by another run: {'; '.join(differences(then['step'], now))}. Give the options of "
                "that run, delete the file to make it again, or give another --output."
            )
        return str(then["printed"])
    with redirect_stdout(io.StringIO()) as told:
        code = command(words)
    if code:
        raise SystemExit(code)
    print(told.getvalue(), end="", flush=True)
    kept.write_text(json.dumps({"step": now, "printed": told.getvalue()}, indent=1) + "\n", encoding="utf-8")
    return told.getvalue()


def write_once(output: Path, text: str) -> None:
    """Write a file unless it is there. Raises: ValueError: it is there with another text."""
    if not output.exists():
        output.write_text(text, encoding="utf-8")
    elif output.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{output} was made from other data, or with another number of rows. Give the options of that run, or "
            "another --output."
        )


def described(output: Path, words: Sequence[str]) -> dict[str, Any]:
    """What the output depends on: option → its values, and for a value that names a file the sha256 of the file."""
    found: dict[str, list[str]] = {}
    name = "command"
    for word in words:
        if word.startswith("--"):
            name = word
            found[name] = []
        else:
            found.setdefault(name, []).append(_value(word, output))
    return {option: values for option, values in found.items() if option not in UNRECORDED}


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """A phrase for each option that differs."""
    options = [option for option in {**then, **now} if then.get(option) != now.get(option)]
    return [f"{option} was {_shown(then.get(option))}, now {_shown(now.get(option))}" for option in options]


def _value(word: str, output: Path) -> str:
    """The word; without the folder of the outputs, which may be moved; of NAME=FILE the file's hash too."""
    prefix, separator, source = word.rpartition("=")
    path = Path(source)
    if path == output:
        return f"{prefix}{separator}{path.name}"
    if path.is_file():
        return f"{prefix}{separator}{path.name} (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:12]})"
    return word


def _shown(values: list[str] | None) -> str:
    return "not given" if values is None else " ".join(values) or "given"
