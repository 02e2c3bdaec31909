"""What SASFT holds through the peak of a step, as the benchmark measures it."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def sasft_step(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module("sasft_step")


def held(sasft_step: Any, folder: str) -> float:
    """Bytes of tensors at the peak of a step, above plain SFT's."""
    case = sasft_step.Case(size="0.4M", rows=4, length=64, features=2, layers=2)
    width, blocks, _ = sasft_step.SIZES[case.size]
    found = sasft_step.features(width, blocks, range(blocks), case.features, "zh", sasft_step.LANGUAGES)
    peaks = []
    for features in (None, found):
        step = sasft_step.step_of(sasft_step.trainer_of(case, folder, features))
        step()
        peaks.append(import_module("_timing").peak_memory(step, "cpu"))
    return import_module("_timing").MEGABYTE * (peaks[1] - peaks[0])


def test_no_gradient_of_a_residual_s_size(sasft_step: Any, tmp_path: Path) -> None:
    residual = 4 * 64 * 64 * 4
    assert held(sasft_step, str(tmp_path)) < 0.5 * residual
