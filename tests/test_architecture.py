"""The import rules, read off the source of every module, and the few other rules a parser can check."""

from __future__ import annotations

import subprocess
import sys

import pytest
from code_rules import (
    MAX_FUNCTION_LINES,
    ROOT,
    TWO_WORLDS,
    modules,
    names_with_two_meanings,
    python_files,
    shared_runs,
    too_long,
    unsafe_loads,
    unwieldy_functions,
)
from import_rules import MAY_IMPORT_TRL, PACKAGE, import_violations, imports_of


def test_every_module_keeps_the_import_rules() -> None:
    found = [
        violation
        for module, path, is_package in modules()
        for violation in import_violations(path.read_text(encoding="utf-8"), module, is_package=is_package)
    ]
    assert not found, "\n".join(found)


def test_no_file_is_loaded_in_a_way_that_can_run_code() -> None:
    found = [
        violation
        for path in python_files()
        for violation in unsafe_loads(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
    ]
    assert not found, "\n".join(found)


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    """Every Python file of the repository: its path → its text."""
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in python_files()}


def test_no_file_is_too_long(sources: dict[str, str]) -> None:
    assert sources
    assert too_long(sources) == {}


def test_no_function_is_unwieldy(sources: dict[str, str]) -> None:
    found = unwieldy_functions(sources)
    assert not found, "\n".join(found)


def test_no_two_places_are_the_same(sources: dict[str, str]) -> None:
    found = shared_runs({path: source for path, source in sources.items() if not path.startswith("tests/")})
    assert not found, "\n".join(found)


def test_planted_excesses_are_caught() -> None:
    lines = [f"    x{number} = {number}" for number in range(MAX_FUNCTION_LINES + 1)]
    long = "\n".join(["def f():", '    """Says."""', *lines])
    (found,) = unwieldy_functions({"sae_posttrain/planted.py": long})
    assert "f has 51 lines" in found
    assert unwieldy_functions({"sae_posttrain/planted.py": "\n".join(long.splitlines()[:-1])}) == []
    many = "class A:\n    def f(self, a, b, c, d, e, f, *, g): ...\ndef g(a, b, c, d, e, f, g): ..."
    (found,) = unwieldy_functions({"sae_posttrain/planted.py": many})
    assert "g takes 7 arguments" in found
    assert too_long({"tests/a.py": "x\n" * 350, "recipes/a.py": "x\n" * 301}) == {"recipes/a.py": 301}


def test_a_planted_repetition_is_caught() -> None:
    same = "\n\n".join(f"y{number} = {number}" for number in range(13))
    planted = {"a.py": f"import os\n{same}\n", "b.py": f"z = 0\n{same}\nz = 1\n"}
    (found,) = shared_runs(planted)
    assert found == "b.py:2 repeats 13 lines of a.py:2"
    assert shared_runs({"a.py": planted["a.py"], "b.py": same.replace("y6", "other")}) == []
    twice = same + "\nz = 0\n" + same
    assert len(shared_runs({"a.py": twice})) == 1


def test_a_public_name_means_one_thing() -> None:
    found = names_with_two_meanings({module: path.read_text(encoding="utf-8") for module, path, _ in modules()})
    assert not found, "\n".join(f"{name} is defined in {', '.join(where)}" for name, where in sorted(found.items()))


def test_a_planted_second_meaning_is_caught() -> None:
    planted = {
        "a": "class Span: ...\nT = int\n_own = 1",
        "b": "Span = tuple[int, int]\nT = str\n_own = 2",
        "c": "x = 1",
    }
    assert names_with_two_meanings(planted) == {"Span": ["a", "b"]}
    worlds = {f"{prefix}world": "def build_world(): ..." for prefix in TWO_WORLDS}
    assert names_with_two_meanings(worlds) == {}
    assert names_with_two_meanings({**worlds, "c": "def build_world(): ..."}).keys() == {"build_world"}


# Each in a fresh interpreter: what counts is what the import of a module pulls in, through whatever it imports.
WITHOUT = """
import importlib, sys
for name in {absent!r}:
    sys.modules[name] = None
for name in {modules!r}:
    importlib.import_module(name)
"""


# Its class inherits from Axolotl's own, so the module is imported inside Axolotl only; `nox -s axolotl` does.
NEEDS_ITS_FRAMEWORK = f"{PACKAGE}.integrations.axolotl"


def needs_trl(module: str) -> bool:
    return any(f"{module}.".startswith(f"{PACKAGE}.{allowed}.") for allowed in MAY_IMPORT_TRL)


@pytest.mark.parametrize(
    ("absent", "names"),
    [
        (["trl", "peft"], [m for m, _, _ in modules() if not needs_trl(m) and m != NEEDS_ITS_FRAMEWORK]),
        (["torch", "transformers"], [m for m, _, _ in modules() if f"{m}.".startswith(f"{PACKAGE}.metrics.")]),
    ],
    ids=["all but trainers, lab and cli without trl and peft", "metrics without torch"],
)
def test_imports_without_what_should_not_be_needed(absent: list[str], names: list[str]) -> None:
    assert names
    script = WITHOUT.format(absent=absent, modules=names)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


# vLLM loads the plugin in every one of its processes, where mostly there is nothing to steer.
IDLE_PLUGIN = """
import sys
from sae_posttrain.steering.vllm_plugin import install
install()
print(*sorted(name for name in sys.modules if name.split(".")[0] in {roots!r}))
"""


def test_the_vllm_plugin_loads_no_trainers_and_no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAE_POSTTRAIN_VLLM_FEATURES", raising=False)
    script = IDLE_PLUGIN.format(roots=(PACKAGE, "trl", "peft", "accelerate", "datasets", "vllm"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert f"{PACKAGE}.steering.vllm_plugin" in loaded
    rooms = {name.split(".")[1] for name in loaded if name.startswith(f"{PACKAGE}.")}
    assert rooms <= {"steering", "feature_set", "residual", "lazy", "artefacts"}
    assert not {name.split(".")[0] for name in loaded} - {PACKAGE}


@pytest.mark.parametrize(
    ("module", "source", "names"),
    [
        ("training.sasft.loss", "from ...sae import SparseAutoencoder", "sae_posttrain.sae"),
        ("training.sasft.loss", "def f():\n    from sae_posttrain.discovery import monolinguality", "discovery"),
        ("training.sasft.loss", "from sae_posttrain import load_sae", "itself"),
        ("training.sasft.loss", "import sae_posttrain.discovery.statistics", "discovery"),
        ("training.sasft.engine", "def f():\n    import trl", "trl"),
        ("training.sasft.trainer", "if True:\n    from peft import LoraConfig", "peft"),
        ("metrics.repetition", "import torch.nn", "torch"),
        ("metrics.repetition", "from .. import residual", "residual"),
        ("residual", "from .languages import LANGUAGES", "languages"),
        ("sae.model", "from .formats import load_sae", "formats"),
        ("sae.formats.qwen_scope", "from .. import load_sae", "formats may import"),
        ("lab.shared.model", "from ..switching.documents import WORLD", "shared may import nothing"),
        ("lab.loops.world", "def f():\n    from ..switching import world", "loops may import"),
        ("steering.generate", "from ..training.rewards import LoopPenalty", "steering may import"),
        ("steering.vllm_plugin", "import vllm", "optional"),
        ("integrations.ms_swift", "import axolotl.integrations.base", "optional"),
        ("integrations.axolotl", "from ..feature_set import FeatureSet", "integrations may import"),
        ("attic", "import math", "new room"),
        ("training.evaluation", "from .sasft.callback import _carry", "its module's own"),
    ],
)
def test_a_planted_import_is_caught(module: str, source: str, names: str) -> None:
    (violation,) = import_violations(source, f"{PACKAGE}.{module}")
    assert names in violation


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("training.sasft.trainer", "from trl import SFTTrainer\nfrom ...feature_set import FeatureSet"),
        ("training.sasft.trainer", "def f():\n    from peft import LoraConfig"),
        ("training.sasft.trainer", "if TYPE_CHECKING:\n    from peft import PeftModel"),
        ("sae.formats.qwen_scope", "from ..model import TopK"),
        ("steering.vllm_plugin", "def f():\n    from vllm.v1.request import Request"),
        ("integrations.axolotl", "from axolotl.integrations.base import BasePlugin\nfrom ..training import sasft"),
        ("inspection.trace", "from ..discovery.statistics import collect_statistics"),
        ("metrics.code_switching", "from ..languages import LANGUAGES"),
        ("feature_set", "from sae_posttrain import __version__"),
        ("lab.loops.world", "from ..shared.model import Stage\nfrom ...discovery import discover_repetition_features"),
        ("cli.sft", "import trl\nfrom ..training.sasft.trainer import SASFTTrainer"),
    ],
)
def test_an_allowed_import_is_not_caught(module: str, source: str) -> None:
    assert import_violations(source, f"{PACKAGE}.{module}") == []


def test_relative_imports_resolve_from_packages_and_from_modules() -> None:
    from_package = imports_of("from .model import TopK", "sae_posttrain.sae", is_package=True)
    from_module = imports_of("from .model import TopK", "sae_posttrain.sae.formats", is_package=False)
    assert from_package[0].module == from_module[0].module == "sae_posttrain.sae.model.TopK"


@pytest.mark.parametrize(
    "source",
    ["torch.load(p)", "torch.load(p, weights_only=False)", "pickle.loads(b)", "from torch import load"],
)
def test_a_planted_unsafe_load_is_caught(source: str) -> None:
    assert len(unsafe_loads(source, "planted.py")) == 1


def test_a_safe_load_is_not_caught() -> None:
    assert unsafe_loads("torch.load(p, weights_only=True, mmap=True)", "planted.py") == []
