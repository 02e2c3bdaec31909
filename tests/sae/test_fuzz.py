"""Some of the damaged files that tests/sae_fuzz.py loads by the thousand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sae_fuzz import FORMATS, MEGABYTES, MUTATIONS, outcome, peak_megabytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of the process as Linux says it")
ROUNDS = 3


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_refused_or_load_as_what_they_hold(name: str, tmp_path: Path) -> None:
    results = [outcome(FORMATS[name], number, tmp_path) for number in range(ROUNDS * len(MUTATIONS))]
    assert not [one for one in results if one[1] not in ("refused", "loads")]
    assert {result for _, result in results} == {"refused", "loads"}
    assert {result for mutation, result in results if mutation in ("malicious", "replaced", "truncated")} == {"refused"}


@pytest.mark.parametrize("name", FORMATS)
def test_sizes_that_only_the_description_has_take_no_memory(name: str, tmp_path: Path) -> None:
    huge = [number for number in range(20 * len(MUTATIONS)) if MUTATIONS[number % len(MUTATIONS)].__name__ == "huge"]
    before = peak_megabytes()
    assert {outcome(FORMATS[name], number, tmp_path)[1] for number in huge} == {"refused"}
    assert peak_megabytes() - before < MEGABYTES
