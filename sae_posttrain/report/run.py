"""Read a run for the report: find the files of its folder and load their contents."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..artefacts import (
    BENCHMARK_OVERLAP,
    BENCHMARK_REDUNDANCY,
    BENCHMARK_SELECTION,
    CALIBRATION_CURVE,
    CALLBACK_STATES,
    CLASS_DISCOVERY,
    COVERAGE_CURVES,
    DIAGNOSIS,
    EVAL,
    EVAL_RESULTS,
    FEATURE_SET_METADATA,
    FINDINGS,
    MODEL_DIFFS,
    SASFT_STATE,
    SUPPRESS,
    SWITCH_TRACES,
    TARGET_RATE,
    TOP_CONTEXTS,
    TRAINER_STATE,
)
from ..feature_set import FeatureSet

RunRow = Mapping[str, Any]

# The kind of a JSON file is recognised by a key that only this kind has.
KINDS = {
    SWITCH_TRACES: "traces",
    TOP_CONTEXTS: "contexts",
    MODEL_DIFFS: "diffs",
    COVERAGE_CURVES: "coverage",
    TARGET_RATE: "calibrations",
    CLASS_DISCOVERY: "classes",
    BENCHMARK_OVERLAP: "overlaps",
    BENCHMARK_REDUNDANCY: "redundancies",
    BENCHMARK_SELECTION: "selections",
    DIAGNOSIS: "diagnoses",
}


@dataclass
class Run:
    """The data of one run. Missing parts are empty. `suppress` contains the suppressed languages of SASFT."""

    name: str
    folder: Path
    log: list[RunRow] = field(default_factory=list)
    suppress: list[str] = field(default_factory=list)
    results: dict[str, float] = field(default_factory=dict)
    answers: dict[str, list[RunRow]] = field(default_factory=dict)
    features: dict[str, FeatureSet] = field(default_factory=dict)
    contexts: list[RunRow] = field(default_factory=list)
    traces: list[RunRow] = field(default_factory=list)
    calibrations: dict[str, RunRow] = field(default_factory=dict)
    diffs: list[RunRow] = field(default_factory=list)
    coverage: list[RunRow] = field(default_factory=list)
    classes: list[RunRow] = field(default_factory=list)
    overlaps: list[RunRow] = field(default_factory=list)
    redundancies: list[RunRow] = field(default_factory=list)
    selections: list[RunRow] = field(default_factory=list)
    diagnoses: dict[str, RunRow] = field(default_factory=dict)

    def __bool__(self) -> bool:
        parts = (self.log, self.results, self.answers, self.features)
        return any(parts) or any(getattr(self, name) for name in KINDS.values())

    def answers_file(self, name: str) -> Path:
        return self.folder if self.folder.is_file() else self.folder / f"{name}.jsonl"


def read_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Read the runs in these folders, in order. From each folder these files are read, if they exist:

    - `trainer_state.json`, or that of the last `checkpoint-*`, for the training curves.
    - `eval_results.json`, as written by the trainer's `save_metrics`, for metrics to compare.
    - every `*.jsonl` that `sae-posttrain measure code-switching` or `measure repetition` wrote with --output, for rates
      and examples. Files with the same name in several runs are compared with each other.
    - every `*.safetensors` that is a feature set, for the feature cards.
    - every `*.json` that `sae-posttrain inspect`, `diagnose`, `calibrate` or `data coverage` wrote, for the passages of
      features, the traces around a switch, the features that changed, the causes of bad answers, the rates by alpha,
      and the curves of coverage. It is recognised by its content.
    - every `*.json` that `sae-posttrain discover class`, `data overlap`, `data redundancy` or `data select` wrote, for
      classes of texts and comparisons of benchmarks.

    All other files are ignored. If a folder contains further run folders, these are read too, except checkpoints. A
    path may also be that of a single file.

    Raises:
        FileNotFoundError: a folder or file does not exist.
        ValueError: a folder has no file for a report, or a file is damaged.
    """
    found: list[Run] = []
    seen: set[Path] = set()
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"There is no run at {path}. A run is a folder, such as the output_dir of `sft`.")
        places = [path, *sorted(path.iterdir())] if path.is_dir() else [path]
        runs = [_read(place) for place in places if place == path or (place.is_dir() and not _is_checkpoint(place))]
        if not any(runs):
            raise ValueError(
                f"{path} has no file for a report. Expected {TRAINER_STATE} or a training checkpoint, a .jsonl file of "
                "`sae-posttrain measure code-switching` or `measure repetition` with --output, or a feature set."
            )
        for run in runs:
            if run and run.folder.resolve() not in seen:
                seen.add(run.folder.resolve())
                found.append(run)
    _name(found)
    return found


def _read(place: Path) -> Run:
    run = Run(place.stem, place)
    if place.is_file():
        _add(run, place)
        return run
    for path in sorted(place.iterdir()):
        if path.is_file():
            _add(run, path)
    if not run.log:
        states = [path / TRAINER_STATE for path in place.glob("checkpoint-*") if _is_checkpoint(path)]
        if there := [state for state in states if state.is_file()]:
            _add(run, max(there, key=lambda state: int(state.parent.name.rpartition("-")[2])))
    return run


def _is_checkpoint(path: Path) -> bool:
    return path.name.startswith("checkpoint-") and path.name.rpartition("-")[2].isdigit()


def _add(run: Run, path: Path) -> None:
    """Load the file into the part of the run that it belongs to, if there is one."""
    if path.suffix == ".safetensors":
        if _is_feature_set(path):
            run.features[path.stem] = FeatureSet.load(path)
    elif path.suffix == ".jsonl":
        if rows := _measured_rows(path):
            run.answers[path.stem] = rows
    elif path.name == TRAINER_STATE:
        state = _read_json(path, dict)
        with explaining_damage(path):
            run.log = [row for row in state.get("log_history", []) if isinstance(row, dict)]
            run.suppress = [str(code) for code in state.get(CALLBACK_STATES, {}).get(SASFT_STATE, {}).get(SUPPRESS, [])]
    elif path.name == EVAL_RESULTS:
        numbers = {name: value for name, value in _read_json(path, dict).items() if is_number(value)}
        run.results = {name: float(value) for name, value in numbers.items() if name.startswith(EVAL)}
    elif path.suffix == ".json":
        _add_json(run, path)


def _add_json(run: Run, path: Path) -> None:
    with path.open("rb") as file:
        # Skip files without any of these keys before parsing them: a tokenizer's file may have many megabytes, and
        # other files may not be valid JSON.
        start = file.read(2**20)
    if not any(f'"{key}"'.encode() in start for key in KINDS):
        return
    content = _read_json(path)
    key = next((key for key in KINDS if isinstance(content, dict) and key in content), None)
    if key == TARGET_RATE:
        run.calibrations[path.name.removesuffix(CALIBRATION_CURVE).removesuffix(".json")] = content
    elif key == DIAGNOSIS:
        with explaining_damage(path):
            run.diagnoses[path.stem] = dict(content[key])
    elif key is not None:
        with explaining_damage(path):
            if not isinstance(content[key], list):
                raise TypeError(f"{key} is a JSON {type(content[key]).__name__}, not a list")
            getattr(run, KINDS[key]).extend(content[key])


def _is_feature_set(path: Path) -> bool:
    try:
        with safe_open(path, framework="np") as file:
            return FEATURE_SET_METADATA in (file.metadata() or {})
    except SafetensorError:
        return False  # it may be a file of model weights that is still being written, so there is no error


def _measured_rows(path: Path) -> list[RunRow]:
    """The rows, if the first row was written by `measure code-switching` or `measure repetition` with --output."""
    rows: list[RunRow] = []
    with path.open("rb") as lines, explaining_damage(path):
        for line in lines:
            if line.strip():
                try:
                    row = _parse(line)
                except (ValueError, ArithmeticError, RecursionError):
                    if rows:
                        raise
                    return []  # the first row shows that another program wrote this file, so there is no error
                if not rows and not (isinstance(row, dict) and "response" in row and _is_measured(row)):
                    return []
                if not (isinstance(row, dict) and isinstance(row["response"], str)):
                    raise TypeError(f"row {len(rows) + 1} has no text in 'response'")
                rows.append(row)
    return rows


def _is_measured(row: RunRow) -> bool:
    return any(finding.column in row for finding in FINDINGS)


def _read_json(path: Path, expected: type = object) -> Any:
    with explaining_damage(path):
        content = _parse(path.read_bytes())
        if not isinstance(content, expected):
            raise TypeError(f"a JSON {type(content).__name__}")
        return content


def _parse(content: bytes) -> Any:
    return json.loads(content.decode("utf-8-sig"), parse_int=_as_int)


def _as_int(digits: str) -> int:
    """Parse an integer. Raises: OverflowError: it is too large for a float, which charts need."""
    float(number := int(digits))
    return number


@contextmanager
def explaining_damage(path: Path | str) -> Iterator[None]:
    """Convert errors inside the block to a message that says that the file is damaged."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged, or was written by another version ({type(error).__name__}: {error}). Write it again, "
            "or move it out of the run's folder."
        ) from error


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _name(runs: Sequence[Run]) -> None:
    """Name each run by the end of its path. The names are as short as possible and all different."""
    paths = [run.folder.resolve() for run in runs]
    parts = [(path.with_suffix("") if path.is_file() else path).parts for path in paths]
    if len(set(parts)) < len(parts):  # `sft` and `sft.jsonl` side by side
        parts = [path.parts for path in paths]
    for run, own in zip(runs, parts, strict=True):
        for length in range(1, len(own) + 1):
            if sum(other[-length:] == own[-length:] for other in parts) == 1:
                break
        run.name = os.sep.join(own[-length:])
