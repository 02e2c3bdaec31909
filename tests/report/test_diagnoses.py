"""The section of the page about a diagnosis: what it says of causes, and of none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from sae_posttrain.artefacts import DIAGNOSIS
from sae_posttrain.report import write_report

from .runs import diagnosis, write_json


def page(folder: Path, content: object) -> str:
    write_json(folder / "run" / "diagnosis.json", content)
    return write_report([folder / "run"], folder / "report.html").read_text(encoding="utf-8")


def test_it_shows_the_ranking_the_tests_and_what_was_cured(tmp_path: Path) -> None:
    shown = page(tmp_path, diagnosis())
    assert "Without all 2 features, 1 of 10 answers have the fault" in shown
    assert "layer 26, feature 126" in shown
    assert "2 of 10" in shown
    assert "9 of 10" in shown
    assert shown.count("a cause</mark>") == 3  # two tests passed, and the one feature that is kept
    assert "Behind the hill." in shown
    assert "sae-posttrain diagnose" not in shown  # it is not missing


def test_what_passed_stands_first_and_a_pair_is_not_called_two_causes(tmp_path: Path) -> None:
    content = diagnosis()
    alone, pair = content[DIAGNOSIS]["proof"]["trials"][0], content[DIAGNOSIS]["proof"]["trials"][-1]
    alone["is_cause"], alone["answers"]["ablated"]["hits"] = False, 0  # fewest answers with the fault, but not proved
    content[DIAGNOSIS]["kept"] = pair["members"]
    shown = page(tmp_path, content)
    assert "Without all 2 features, 1 of 10 answers have the fault" in shown
    assert "This proves a cause." in shown
    assert shown.count(">part of a cause</mark>") == 2
    assert shown.count(">a cause</mark>") == 1


def test_a_ranking_alone_says_that_nothing_was_tested(tmp_path: Path) -> None:
    shown = page(tmp_path, diagnosis(proved=False))
    assert "Only ranked" in shown
    assert "a cause</mark>" not in shown


def test_a_damaged_diagnosis_is_named(tmp_path: Path) -> None:
    content = diagnosis()
    content[DIAGNOSIS]["proof"]["trials"][0]["answers"]["ablated"] = None
    with pytest.raises(ValueError, match=r"The diagnosis .diagnosis. in .* is damaged"):
        page(tmp_path, content)
    content = json.loads(json.dumps({DIAGNOSIS: 3}))
    with pytest.raises(ValueError, match="is damaged"):
        page(tmp_path, content)
