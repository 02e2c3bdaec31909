"""Save the data of every arm of the demo for its report: log, metrics and answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import Trainer

from ...artefacts import EVAL_RESULTS, TRAINER_STATE


def arm_folder(output: Path, arm: str) -> Path:
    return output / arm.lower().replace(" ", "-")


def write_log(folder: Path, trainer: Trainer) -> None:
    """Write the log of a training run, for its curves."""
    folder.mkdir(parents=True, exist_ok=True)
    trainer.state.save_to_json(str(folder / TRAINER_STATE))


def write_numbers(folder: Path, numbers: Mapping[str, float]) -> None:
    """Write the metrics of an arm other than the rates."""
    (folder / EVAL_RESULTS).write_text(json.dumps(numbers) + "\n", encoding="utf-8")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False) + "\n", encoding="utf-8")
