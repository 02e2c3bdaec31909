"""Write results files: one row per measurement, with library versions, hardware and commit."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "trl")


def append_results(path: Path, rows: Sequence[Mapping[str, Any]], script: str) -> None:
    """Append rows to a .csv file, each with the library versions, the hardware and the commit of the script.

    Args:
        path: the file. It is created if it does not exist.
        rows: rows with the same columns.
        script: path of the script that measured them.

    Example:
        >>> append_results(Path("results.csv"), [{"arm": "SFT", "rate": 0.04}], __file__)
    """
    origin = {
        "versions": " ".join(f"{library}=={version(library)}" for library in LIBRARIES),
        "hardware": f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "commit": commit_of(script),
    }
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], *origin], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows({**row, **origin} for row in rows)


def commit_of(script: str) -> str:
    """The commit of the script's folder, with a mark if there are uncommitted changes."""
    command = ["git", "-C", str(Path(script).parent), "describe", "--always", "--dirty=+changes"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
