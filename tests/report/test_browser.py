"""The page in a real browser: nothing fails, nothing is asked for, and it fits a phone, the dark and paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from sae_posttrain.report import write_report

from .browser import CHROMIUM, Page, browse, check_opened
from .runs import write_runs
from .test_page import ATTACK

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browse() as tab:
        yield tab


@pytest.fixture(scope="module", params=["plain", "attacked"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    runs = write_runs(folder, str if request.param == "plain" else lambda text: text + ATTACK)
    return write_report(runs, folder / "report.html")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_opens_in_silence_and_fits(page: Page, report: Path, width: int, dark: bool, tmp_path: Path) -> None:
    check_opened(page, report, width, dark, charts=21)
    assert page.evaluate("document.images.length + document.scripts.length") == 0
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper.removeprefix("rgb(").removesuffix(")").split(","))) < 150) == dark
    assert page.screenshot(tmp_path / "page.png").stat().st_size > 50_000


def test_charts_are_drawn_in_the_pages_colours(page: Page, report: Path) -> None:
    strokes = (
        """[...new Set([...document.querySelectorAll("figure svg path")].map(one => getComputedStyle(one).stroke))]"""
    )
    page.open(report)
    light = page.evaluate(strokes)
    page.open(report, dark=True)
    dark = page.evaluate(strokes)
    # The six runs' first three, ink, muted and grid; each has its own in the dark.
    assert len(light) >= 6
    assert not (set(light) & set(dark)) - {"none"}


def test_it_prints_light_and_with_what_was_folded(page: Page, report: Path, tmp_path: Path) -> None:
    page.open(report, dark=True)
    page.call("Emulation.setEmulatedMedia", media="print")
    assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()") == "#1d2026"
    folded = """[...document.querySelectorAll("details:not([open]):not(.more) > :not(summary)")]
      .every(one => one.getBoundingClientRect().height > 20)"""
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") > 0
    assert page.evaluate(folded)
    assert page.pdf(tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    page.call("Emulation.setEmulatedMedia", media="")


def test_an_attack_does_nothing(page: Page, report: Path) -> None:
    page.open(report)
    assert page.evaluate("document.querySelectorAll('[onerror], [onload], [src]').length") == 0
    assert not any(event["method"] == "Page.javascriptDialogOpening" for event in page.events)
    if "attacked" in str(report):
        assert page.evaluate("document.body.innerText.includes('<img src=https://evil.example/x onerror=alert(1)>')")
