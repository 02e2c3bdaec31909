"""The sections on classes of texts and on benchmarks: what they show, in a real browser too."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from sae_posttrain.report import read_runs, write_report

from .analyses import NAMES, write_analyses
from .browser import CHROMIUM, Page, browse, check_opened
from .test_page import ATTACK, Reader


@pytest.fixture(scope="module", params=["plain", "attacked"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    wrap = str if request.param == "plain" else lambda text: text + ATTACK
    return write_analyses(tmp_path_factory.mktemp(request.param) / request.param, wrap)


@pytest.fixture(scope="module")
def report(folder: Path) -> Path:
    return write_report([folder], folder.parent / "report.html")


def test_both_sections_are_there_and_well_formed(report: Path) -> None:
    read = Reader(report.read_text(encoding="utf-8"))
    assert read.complaints == []
    assert [value for _, name, value in read.attributes if name == "id" and value in ("classes", "benchmarks")] == [
        "classes",
        "benchmarks",
    ]
    ids = [value for _, name, value in read.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert "Not on this page" not in read.text  # it is not about a training run
    if "attacked" in str(report):
        assert ATTACK in read.text
        assert read.tags["img"] == read.tags["script"] == 0


def test_the_numbers_are_those_of_the_files(folder: Path, report: Path) -> None:
    if folder.name == "attacked":
        return
    text = re.sub(r"\s+", " ", Reader(report.read_text(encoding="utf-8")).text)
    (overlap,) = json.loads((folder / "overlap.json").read_text())["benchmark_overlap"]
    share = overlap["covered"][0][1]
    assert f"{share:.1%}" in text
    for name in NAMES:
        assert name in text
    for row in json.loads((folder / "redundancy.json").read_text())["benchmark_redundancy"]:
        assert f"{row['redundancy']:.3g}" in text
        assert f"{row['ranking_redundancy']:.3g}" in text
    (found,) = json.loads((folder / "toxic.classes.json").read_text())["class_discovery"]
    for test in found["tests"]:
        assert f"On {test['name']}" in text
        for method in test["methods"]:
            assert f"{method['f1']:.3g}" in text
    assert "may be offensive" in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("overlap.json", {"benchmark_overlap": [{"names": ["a", "b"], "covered": [[1]]}]}),
        ("redundancy.json", {"benchmark_redundancy": [{"name": "a", "coverage": ["x"]}]}),
        ("selection.json", {"benchmark_selection": [{"chosen": [1]}]}),
        ("a.classes.json", {"class_discovery": [{"target": "toxic"}]}),
        ("a.classes.json", {"class_discovery": 3}),
    ],
)
def test_a_damaged_file_is_named(name: str, content: object, tmp_path: Path) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is damaged, or was written by another version"):
        write_report([tmp_path], tmp_path / "page.html")


def test_one_of_the_files_is_a_run_too(folder: Path) -> None:
    (run,) = read_runs([folder / "overlap.json"])
    assert run.overlaps
    assert not run.classes


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browse() as tab:
        yield tab


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_opens_in_silence_and_fits(page: Page, report: Path, width: int, dark: bool, tmp_path: Path) -> None:
    check_opened(page, report, width, dark, charts=5)
    coloured = """new Set([...document.querySelectorAll(".matrix td.cell")].map(one =>
      getComputedStyle(one).backgroundColor)).size"""
    assert page.evaluate(coloured) > 4  # the matrix is a plot: cells of other shares have other colours
    assert page.screenshot(tmp_path / "page.png").stat().st_size > 50_000
