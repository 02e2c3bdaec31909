"""The rules of the code that a parser can check: sizes, names, and files that are loaded without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from import_rules import PACKAGE

ROOT = Path(__file__).parent.parent
MAX_LINES = 350
# Names that many modules define because each plays the same part there: a command, a format, one of the lab's worlds.
SAME_PART = frozenset({"add_parser", "add_options", "run", "find", "layer_of", "load"}) | {"Rate"}
TWO_WORLDS = (f"{PACKAGE}.lab.switching.", f"{PACKAGE}.lab.loops.")


def modules() -> Iterator[tuple[str, Path, bool]]:
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        yield ".".join(parts[:-1] if is_package else parts), path, is_package


def python_files() -> Iterator[Path]:
    for folder in (PACKAGE, "tests", "benchmarks", "recipes"):
        yield from sorted((ROOT / folder).rglob("*.py"))


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
