"""`make test-versions` runs what pyproject.toml promises: its lower bounds, and the versions of constraints.txt."""

from importlib.metadata import requires, version
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from scripts import load_script

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def noxfile() -> ModuleType:
    return load_script(ROOT / "noxfile.py", "noxfile")


def pins(lines: list[str]) -> dict[str, str]:
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert len({one.name for one in found}) == len(found), "a package is pinned twice"
    return {one.name: str(one.specifier) for one in found}


@pytest.mark.parametrize("package", ["transformers", "trl", "accelerate", "peft", "datasets"])
def test_the_lowest_session_installs_the_lower_bound(package: str, noxfile: ModuleType) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"{package}>={noxfile.floors()[package]}' in text
    assert pins(noxfile.lowest_constraints())[package] == f"=={noxfile.floors()[package]}"


@pytest.mark.parametrize("package", ["transformers", "accelerate", "peft", "datasets"])
def test_without_trl_older_ones_are_enough(package: str, noxfile: ModuleType) -> None:
    """The pins of LLaMA-Factory 0.9.5, which nothing of ours may ask more than."""
    pinned = {"transformers": "5.6.0", "accelerate": "1.11.0", "peft": "0.18.1", "datasets": "4.0.0"}
    lowest = noxfile.floors(extras=False)
    assert Version(lowest[package]) <= Version(pinned[package])
    assert "trl" not in lowest
    assert pins(noxfile.lowest_constraints(extras=False))[package] == f"=={lowest[package]}"


def test_the_lowest_session_keeps_the_tested_torch_and_tools(noxfile: ModuleType) -> None:
    newest, lowest = pins(noxfile.NEWEST.read_text(encoding="utf-8").splitlines()), pins(noxfile.lowest_constraints())
    for name in ("torch", "pytest", "hatchling"):
        assert lowest[name] == newest[name]


def test_the_newest_versions_are_in_the_range_and_so_is_what_is_installed() -> None:
    newest = pins((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    for line in requires("sae-posttrain") or []:
        requirement = Requirement(line)
        if requirement.name in newest:
            assert requirement.specifier.contains(newest[requirement.name].removeprefix("=="))
        if requirement.marker is None:
            assert requirement.specifier.contains(version(requirement.name))
