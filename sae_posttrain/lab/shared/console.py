"""Print and save the demo's results, and silence the output of the libraries."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import transformers


def clock() -> Callable[[str], None]:
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - start:4.0f} s] {line}", flush=True)

    return say


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries, because their output would hide the demo's own progress lines."""
    ours, verbosity = logging.getLogger("sae_posttrain"), transformers.utils.logging.get_verbosity()
    level = ours.level
    bars = transformers.utils.logging.is_progress_bar_enabled()
    ours.setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        ours.setLevel(level)
        transformers.utils.logging.set_verbosity(verbosity)
        datasets.enable_progress_bars()
        if bars:
            transformers.utils.logging.enable_progress_bar()


def conclude(output: Path, found: str, **results: Any) -> None:
    """Write the results as text and as JSON, and list every file of this half of the demo."""
    (output / "table.txt").write_text(f"{found}\n", encoding="utf-8")
    (output / "results.json").write_text(json.dumps(results, indent=1, default=str) + "\n", encoding="utf-8")
    print(f"\n{found}\n\nWrote")
    for path in sorted(output.iterdir()):
        print(f"  {path}{'/' if path.is_dir() else ''}")
