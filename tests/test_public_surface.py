"""What a user imports from the top: it is all there, cheap to import, documented, and takes paths for feature sets."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from steering_cases import feature_set
from tiny_models import make, token_ids

import sae_posttrain
from sae_posttrain import FeatureSet, SASFTCallback, steer

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference.md"


def imported_for_types() -> dict[str, str]:
    """Name → module, of the imports that type checkers see."""
    tree = ast.parse((ROOT / "sae_posttrain" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.name: str(node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }


def test_the_three_lists_of_public_names_agree() -> None:
    assert list(sae_posttrain.__all__) == sorted(sae_posttrain._HOME)
    assert imported_for_types() == sae_posttrain._HOME
    assert set(sae_posttrain.__all__) <= set(dir(sae_posttrain))


@pytest.mark.parametrize("name", sae_posttrain.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    found = getattr(sae_posttrain, name)
    assert (inspect.getdoc(found) or "").strip(), f"{name} has no docstring"


def missing_sections(found: Any) -> set[str]:
    """The sections that a public docstring lacks. `Raises:` is not checked, as not every function raises errors."""
    signature = inspect.signature(found)
    returned = str(signature.return_annotation)
    wanted = {"Example:", "Source:"}
    if signature.parameters:
        wanted.add("Args:")
    if inspect.isfunction(found) and returned != "None" and "Iterator" not in returned:  # not a context manager
        wanted.add("Returns:")
    return {section for section in wanted if section not in (inspect.getdoc(found) or "")}


@pytest.mark.parametrize("name", sae_posttrain.__all__)
def test_every_public_docstring_has_its_sections(name: str) -> None:
    assert missing_sections(getattr(sae_posttrain, name)) == set()


def test_a_docstring_without_its_sections_is_noticed() -> None:
    def bare(x: int) -> int:
        """Only one line."""
        return x

    assert missing_sections(bare) == {"Args:", "Returns:", "Example:", "Source:"}


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'steering_wheel'"):
        sae_posttrain.steering_wheel  # noqa: B018


def documented(page: str) -> list[str]:
    """The names that have a row in the reference: | `name` | what it does |."""
    return re.findall(r"^\| `(\w+)` \| \S.* \|$", page, flags=re.MULTILINE)


def test_every_public_name_has_an_entry_in_the_reference() -> None:
    rows = documented(REFERENCE.read_text(encoding="utf-8"))
    assert sorted(rows) == sorted(sae_posttrain.__all__), "one row for each public name, and no other"


def test_a_name_without_an_entry_is_noticed() -> None:
    assert documented("| `steer` | steers |\n| `forgotten` |  |\nand `mentioned` in a sentence") == ["steer"]


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('loaded:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("loaded:")[2].split())


@pytest.mark.parametrize(
    "code",
    [
        "import sae_posttrain",
        "from sae_posttrain import repetition_rate, code_switching_rate, LoopSettings, language_confusion",
        "from sae_posttrain.cli import main; main(['sae', 'list'])",
    ],
)
def test_torch_is_not_loaded_where_nothing_needs_it(code: str) -> None:
    assert not loaded_by(code) & {"torch", "transformers", "trl", "datasets"}


def test_importing_the_package_loads_nothing_else() -> None:
    assert not loaded_by("import sae_posttrain") & {"numpy", "typing", "regex", "sae_posttrain.metrics"}


@pytest.mark.parametrize("name", sae_posttrain.__all__)
def test_a_path_is_taken_wherever_a_feature_set_is(name: str) -> None:
    found = getattr(sae_posttrain, name)
    if not callable(found) or name == "FeatureSet" or name in ("Calibration", "SteeredGRPOConfig", "SteeredRLOOConfig"):
        return  # a result that holds a set, and configurations, which only take paths
    taken = inspect.signature(found).parameters.get("features")
    if taken is not None and "FeatureSet" in str(taken.annotation):
        assert "Path" in str(taken.annotation), f"{name}(features: {taken.annotation})"


def test_a_path_does_what_its_feature_set_does(tmp_path: Path) -> None:
    torch.manual_seed(3)
    features = feature_set()
    path = features.save(tmp_path / "features.safetensors")
    assert FeatureSet.of(features) is features
    model, ids = make(), token_ids(rows=2, length=5)
    made = []
    for source in (features, path, str(path)):
        with steer(model, source, alpha=3.0):
            made.append(model.generate(ids, max_new_tokens=6, do_sample=False))
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])
    with pytest.raises(FileNotFoundError, match=r"no feature set at .*missing\.safetensors"):
        SASFTCallback(tmp_path / "missing.safetensors", suppress="zh")
