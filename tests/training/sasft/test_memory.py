"""What SASFT holds through the peak of a step, as the benchmark measures it."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
ROWS, LENGTH = 4, 256


@pytest.fixture
def sasft_step(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module("sasft_step")


def held(sasft_step: Any, folder: str, dtype: str) -> float:
    """Bytes of tensors at the peak of a step, above plain SFT's."""
    case = sasft_step.Case(size="0.4M", rows=ROWS, length=LENGTH, features=2, layers=2, dtype=dtype)
    width, blocks, _ = sasft_step.SIZES[case.size]
    found = sasft_step.features(width, blocks, range(blocks), case.features, "zh", sasft_step.LANGUAGES)
    timing, peaks = import_module("_timing"), []
    for features in (None, found):
        step = sasft_step.step_of(sasft_step.trainer_of(case, folder, features))
        step()
        peaks.append(timing.peak_memory(step, "cpu"))
    return timing.MEGABYTE * (peaks[1] - peaks[0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_gradient_of_a_residual_s_size(sasft_step: Any, tmp_path: Path, dtype: str) -> None:
    residual = ROWS * LENGTH * sasft_step.SIZES["0.4M"][0] * getattr(torch, dtype).itemsize
    assert held(sasft_step, str(tmp_path), dtype) < 0.5 * residual
