"""A metric without a part of its contract fails in mypy, and at once at run time: not after hours of sampling."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sae_posttrain.cli import main
from sae_posttrain.cli.measure import METRICS
from sae_posttrain.cli.measure.metric import Metric
from sae_posttrain.cli.measure.reporting import finish
from sae_posttrain.cli.measure.responses import read_against, read_source
from sae_posttrain.metrics import compare_rates
from sae_posttrain.texts import Row

PARTS = ("rate", "confidence", "outcomes", "rows", "to_dict", "table")
CHECKED = """
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from sae_posttrain.cli.measure.metric import Metric
from sae_posttrain.metrics import compare_rates
from sae_posttrain.texts import Row

@dataclass(frozen=True)
class Report:
    rate: float
    confidence: float
    {outcomes}
    {rows}
    def to_dict(self) -> dict[str, Any]: return {{}}
    def table(self) -> str: return ""

def report(rows: Sequence[Row]) -> Report: raise NotImplementedError
def mark(row: Row) -> None: ...
Metric(report, mark, compare_rates)
"""
WHOLE = {
    "outcomes": "outcomes: tuple[tuple[str, bool], ...]",
    "rows": "def rows(self) -> list[dict[str, Any]]: return []",
}


@dataclass(frozen=True)
class Planted:
    """How many responses are long."""

    long: list[bool]
    confidence: float = 0.95

    @property
    def rate(self) -> float:
        return sum(self.long) / len(self.long)

    @property
    def outcomes(self) -> tuple[tuple[int, bool], ...]:
        return tuple(enumerate(self.long))

    def rows(self) -> list[dict[str, Any]]:
        return [{"long": sum(self.long)}]

    def to_dict(self) -> dict[str, Any]:
        return self.rows()[0]

    def table(self) -> str:
        return f"{self.rate:.0%} are long"


class Kind:
    """A kind of `measure` with a planted report, as a contributor would add it."""

    HELP = "share of long responses"

    def __init__(self, report: type[Planted]) -> None:
        self.planted = report

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        pass

    def run(self, args: argparse.Namespace) -> int:
        def report(rows: Sequence[Row]) -> Planted:
            return self.planted([len(row["response"]) > 3 for row in rows])

        def mark(row: Row) -> None:
            row["long"] = len(row["response"]) > 3

        return finish(read_source(args), read_against(args), args, Metric(report, mark, compare_rates))


@pytest.fixture
def asked(model_folder: str, tmp_path: Path) -> list[str]:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "abc"}\n{"prompt": "fed"}\n', encoding="utf-8")
    return ["measure", "long", "--model", str(model_folder), "--prompts", str(tmp_path / "prompts.jsonl")]


@pytest.mark.parametrize("missing", PARTS)
def test_a_report_without_a_part_fails_before_sampling(
    missing: str, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Without(Planted):
        def __getattribute__(self, name: str) -> Any:
            if name == missing:
                raise AttributeError(f"a report without {name}")
            return super().__getattribute__(name)

    monkeypatch.setattr("sae_posttrain.sampling.sample_run", lambda *args, **settings: pytest.fail("sampled"))
    monkeypatch.setitem(METRICS, "long", Kind(Without))
    with pytest.raises(AttributeError, match=f"a report without {missing}"):
        main(asked)


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_a_whole_report_is_measured(
    form: list[str], asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(METRICS, "long", Kind(Planted))
    assert main([*asked, *form, "--max-new-tokens", "4", "--samples", "1"]) == 0
    assert "long" in capsys.readouterr().out


def test_runs_on_other_prompts_are_refused_before_sampling(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.jsonl").write_text('{"prompt": "abc", "response": "fed"}\n', encoding="utf-8")
    monkeypatch.setattr("sae_posttrain.sampling.sample_run", lambda *args, **settings: pytest.fail("sampled"))
    asked[1] = "repetition"
    assert main([*asked, "--against", str(tmp_path / "other.jsonl")]) == 2
    assert "must have answered the same prompts: 1 are in the first only (such as 'fed')" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("missing", [None, "rows", "outcomes"])
def test_mypy_refuses_a_report_without_a_part(missing: str | None, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    snippet = CHECKED.format(**{**WHOLE, **({missing: ""} if missing else {})})
    (tmp_path / "planted.py").write_text(snippet, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(tmp_path / "planted.py")]
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert (found.returncode == 0) == (missing is None), found.stdout + found.stderr
    assert missing is None or '"Metric"' in found.stdout
