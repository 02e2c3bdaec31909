"""What every benchmark writes, rows of one kind, and where they came from. Times have their own kind: `_timing`."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("torch", "transformers", "trl")


@dataclass(frozen=True)
class Row:
    """One measured number."""

    case: str
    measure: str
    value: float
    unit: str


def write(
    name: str, rows: Sequence[Any], libraries: Sequence[str] = LIBRARIES, *, case: Sequence[str] | None = None
) -> Path:
    """Write rows of one dataclass to `results/<name>.csv`; each says on what, with what and when it was measured.

    Args:
        case: columns that tell cases apart, which are measured by separate runs; rows of other cases stay in the file.
            Without them, the file is replaced.
    """
    origin = {
        "hardware": hardware(),
        "versions": " ".join(f"{library}=={version(library)}" for library in libraries),
        "commit": COMMIT,
        "date": datetime.now(UTC).date().isoformat(),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    columns = [*(field.name for field in fields(rows[0])), *origin]
    new = [{**asdict(row), **origin} for row in rows]
    others = [] if case is None else _other_cases(path, columns, new, case)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*others, *new])
    return path


def _other_cases(
    path: Path, columns: Sequence[str], new: Sequence[dict[str, Any]], case: Sequence[str]
) -> list[dict[str, str]]:
    measured = {tuple(str(row[name]) for name in case) for row in new}
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        old = csv.DictReader(file)
        if old.fieldnames != list(columns):
            return []  # of an earlier version of the benchmark
        return [row for row in old if tuple(row[name] for name in case) not in measured]


def hardware() -> str:
    """Processor, cores and memory, as far as the system says."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, {gigabytes:.0f} GiB"


def commit() -> str:
    """The commit measured, marked when the package had changes on top of it."""
    here = Path(__file__).parent
    head = _git(here, "rev-parse", "--short", "HEAD")
    return f"{head}+changes" if _git(here.parent, "status", "--porcelain", "sae_posttrain", "benchmarks/*.py") else head


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True).stdout.strip()


COMMIT = commit()  # of the code that was loaded: a long run may see others come
