"""How faults are told and placed, and which proofs are refused."""

from __future__ import annotations

from typing import Any

import pytest

from sae_posttrain.inspection.diagnose_answers import ProofSettings
from sae_posttrain.inspection.diagnose_cases import LoopFault, SwitchFault, TextFault, split_cases
from sae_posttrain.metrics import SwitchCriteria
from sae_posttrain.metrics.loops import LoopSettings


def test_an_empty_proof_is_refused() -> None:
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"controls": 0}, "at least 1"),
        ({"by": "magic"}, "expected 'answers' or 'probability'"),
        ({"members": ()}, "expected some of"),
        ({"by": "probability", "controls": 3}, "at least 5"),
    )
    for wrong, message in refused:
        with pytest.raises(ValueError, match=message):
            ProofSettings(**wrong)


def test_the_place_of_a_faulty_text_is_right_behind_letters_that_change_their_length() -> None:
    response = "İİİ Oh NO."  # in lower case each of the first three letters is two characters
    place = TextFault("oh no").find(response, None, None)
    assert place is not None
    assert response[slice(*place)] == "Oh NO"


def test_what_counts_as_a_fault() -> None:
    text = "We begin. " + "And so on. " * 20
    loop = LoopFault(LoopSettings(min_length=40)).find(text, None, None)
    assert loop is not None
    assert text[: loop[0]].count("And so") == 1  # what is said for the first time is not faulty
    assert loop[1] == len(text)
    switch = SwitchFault(SwitchCriteria(to="zh"), "zh")
    assert switch.find("All 一切 good, 好 too.", "en", None) == (4, 6)
    assert switch.find("All 一切, 12 好 too.", "en", None) == (4, 12)  # no word of another language is between
    with pytest.raises(ValueError, match="needs the language"):
        switch.find("一切", None, None)
    rows = [{"response": "Oh NO.", "prompt": "p"}, {"response": "Fine.", "language": "en"}]
    bad, good = split_cases(rows, TextFault("oh no"))
    assert (bad[0].fault, bad[0].prompt, good[0].language) == ((0, 5), "p", "en")
    with pytest.raises(ValueError, match="is empty"):
        TextFault(" ")
