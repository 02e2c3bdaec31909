"""The import rules, read off the source of every module, and the few other rules a parser can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "sae_posttrain"
MAX_LINES = 350

ANY = frozenset({"*"})
# What discovery may import, and with it the two rooms that build on discovery.
FEATURES = frozenset(
    {"sae", "residual", "steering", "sampling", "metrics", "languages", "feature_set", "vocabulary", "wording"}
)
ROOMS: dict[str, frozenset[str]] = {
    "residual": frozenset(),
    "languages": frozenset(),
    "feature_set": frozenset(),
    "texts": frozenset(),
    "wording": frozenset(),
    "sae": frozenset({"wording"}),
    "vocabulary": frozenset({"languages"}),
    "token_counts": frozenset({"languages"}),
    "metrics": frozenset({"languages"}),
    "sampling": frozenset({"texts", "languages"}),
    "expected": frozenset({"residual", "languages", "vocabulary", "sampling", "metrics"}),
    "steering": frozenset({"feature_set", "residual", "sampling", "metrics", "wording"}),
    "discovery": FEATURES,
    "inspection": FEATURES | {"discovery"},
    "data": FEATURES | {"discovery"},
    "training": frozenset(
        {"feature_set", "residual", "steering", "sampling", "metrics", "languages", "vocabulary", "token_counts"}
    ),
    "integrations": frozenset({"training"}),
    "report": frozenset({"metrics", "languages", "feature_set"}),
    "lab": ANY,
    "cli": ANY,
    "__main__": ANY,
    "": ANY,  # the package's own __init__, which holds the public names
}
# Other training frameworks pin other TRLs, so only what is itself a TRL trainer (or runs one) may need TRL.
MAY_IMPORT_TRL = (
    "training.sasft.trainer",
    "training.rollouts.config",
    "training.rollouts.trainer",
    "lab",
    "cli",
    "__main__",
)
# Libraries that are not installed with the package: only the module named here may import one at module level; others
# import it inside the function that needs it.
OPTIONAL = {
    "peft": "",
    "vllm": "",
    "axolotl": "integrations.axolotl",
    "swift": "integrations.ms_swift",
    "llamafactory": "integrations.llamafactory",
}
# Within these rooms the parts have an order too. In sae the formats build the object, out of what the catalogue names;
# the object knows no format. Training writes files that a format reads, and knows neither; what it will do is planned
# before. The lab's two worlds share what lies beside them, and nothing else.
INSIDE: dict[str, dict[str, frozenset[str]]] = {
    "sae": {
        "mapping": frozenset(),
        "activations": frozenset(),
        "catalogue": frozenset(),
        "planning": frozenset(),
        "training": frozenset({"planning"}),
        "model": frozenset({"activations", "mapping"}),
        "formats": frozenset({"activations", "catalogue", "model"}),
    },
    "lab": {
        "shared": frozenset(),
        "switching": frozenset({"shared"}),
        "loops": frozenset({"shared"}),
    },
}


# Names that many modules define because each plays the same part there: a command, a format, one of the lab's worlds.
SAME_PART = frozenset({"add_parser", "add_options", "run", "find", "layer_of", "load"}) | {"Rate", "check_settings"}
TWO_WORLDS = (f"{PACKAGE}.lab.switching.", f"{PACKAGE}.lab.loops.")


@dataclass(frozen=True)
class Import:
    """One imported module; `lazy` when it happens inside a function, `typing` under TYPE_CHECKING."""

    module: str
    line: int
    lazy: bool
    typing: bool


def imports_of(source: str, module: str, *, is_package: bool) -> list[Import]:
    """Every import statement of a module, relative ones resolved; `from a import b` counts as `a.b`."""
    found: list[Import] = []

    def visit(node: ast.AST, lazy: bool, typing: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, lazy, typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _resolve(node, module, is_package)
            found.extend(Import(f"{base}.{alias.name}", node.lineno, lazy, typing) for alias in node.names)
        is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        is_typing = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            visit(child, lazy or is_function, typing or is_typing)

    visit(ast.parse(source), False, False)
    return found


def _resolve(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if node.level == 0:
        return node.module or ""
    parts = module.split(".")
    keep = len(parts) - node.level + is_package
    return ".".join(parts[:keep] + ([node.module] if node.module else []))


def import_violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What a module imports against the rules, one sentence each."""
    inner = module.removeprefix(PACKAGE).removeprefix(".")
    room = inner.split(".")[0]
    if room not in ROOMS:
        return [f"{module}: {room!r} is a new room; say in ROOMS what it may import"]
    return [
        f"{module}:{found.line}: imports {found.module}; {complaint}"
        for found in imports_of(source, module, is_package=is_package)
        if (complaint := _complaint(found, room, inner))
    ]


def _complaint(found: Import, room: str, inner: str) -> str | None:
    top, _, rest = found.module.partition(".")
    if top == "trl" and not any(inner == allowed or inner.startswith(f"{allowed}.") for allowed in MAY_IMPORT_TRL):
        return f"only {', '.join(MAY_IMPORT_TRL)} may import trl"
    if top in OPTIONAL and inner != OPTIONAL[top] and not (found.lazy or found.typing):
        return f"{top} is optional: import it inside the function that needs it"
    if top == "torch" and room == "metrics":
        return "metrics are text in, numbers out, without torch"
    if top == PACKAGE and any(part.startswith("_") and not part.startswith("__") for part in rest.split(".")):
        return "a name with an underscore is its module's own; give it a place for both, and a name without"
    target = rest.split(".")[0]
    if top == PACKAGE and target == room and room in INSIDE:
        return _complaint_inside(INSIDE[room], inner, rest)
    if top != PACKAGE or ROOMS[room] == ANY:
        return None
    if target == "__version__":
        return None
    if target not in ROOMS or not target:
        return f"import from the room that defines it, not from {PACKAGE} itself"
    return (
        None
        if target == room or target in ROOMS[room]
        else f"{room} may import {sorted(ROOMS[room]) or 'nothing of ours'}"
    )


def _complaint_inside(parts: dict[str, frozenset[str]], inner: str, target: str) -> str | None:
    own, other = (name.split(".")[1] if "." in name else "" for name in (inner, target))
    if own in ("", other) or other in parts.get(own, ()):
        return None
    return f"inside {inner.split('.')[0]}, {own} may import {sorted(parts.get(own, ())) or 'nothing'}"


def unsafe_loads(source: str, name: str) -> list[str]:
    """Calls that would run code from a file: `pickle.load`, and `torch.load` without `weights_only=True`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in ("torch", "pickle"):
            if any(alias.name in ("load", "loads") for alias in node.names):
                found.append(f"{name}:{node.lineno}: call {node.module}.load by its full name, so that it is seen")
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            safe = any(keyword.arg == "weights_only" and _is_true(keyword.value) for keyword in node.keywords)
            if called in ("pickle.load", "pickle.loads") or (called == "torch.load" and not safe):
                found.append(f"{name}:{node.lineno}: {called} can run code from the file; use weights_only=True")
    return found


def _is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def modules() -> Iterator[tuple[str, Path, bool]]:
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        yield ".".join(parts[:-1] if is_package else parts), path, is_package


def python_files() -> Iterator[Path]:
    for folder in (PACKAGE, "tests", "benchmarks", "recipes"):
        yield from sorted((ROOT / folder).rglob("*.py"))


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


def test_no_file_is_too_long() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()
    }
    assert lengths
    assert not {name: length for name, length in lengths.items() if length > MAX_LINES}


def names_with_two_meanings(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Public functions, classes and type aliases that more than one module defines: name → modules."""
    found: dict[str, list[str]] = {}
    for module, source in sources.items():
        for node in ast.parse(source).body:
            for name in _defined(node):
                if not name.startswith("_") and name not in SAME_PART:
                    found.setdefault(name, []).append(module)
    return {
        name: where
        for name, where in found.items()
        if len(where) > 1 and not all(module.startswith(TWO_WORLDS) for module in where)
    }


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if name != "logger" and not name.isupper() and len(name) > 1]


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


def needs_trl(module: str) -> bool:
    return any(f"{module}.".startswith(f"{PACKAGE}.{allowed}.") for allowed in MAY_IMPORT_TRL)


@pytest.mark.parametrize(
    ("absent", "names"),
    [
        (["trl", "peft"], [module for module, _, _ in modules() if not needs_trl(module)]),
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
    assert rooms <= {"steering", "feature_set", "residual"}
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
