"""The rules of the code that a parser can check: sizes, names, and files that are loaded without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from import_rules import PACKAGE

ROOT = Path(__file__).parent.parent
# As CONTRIBUTING states them. Complexity is ruff's to check.
MAX_LINES = {"sae_posttrain": 300, "benchmarks": 300, "recipes": 300, "tests": 350}
MAX_FUNCTION_LINES = 50
MAX_POSITIONAL = 6
MAX_SHARED_LINES = 12
# Calls that a method must take by position as another library makes them.
AS_TRL_CALLS_THEM = frozenset({"_prepare_dataset"})
# Names that many modules define because each plays the same part there: a command, a format, one of the lab's worlds.
SAME_PART = frozenset({"add_parser", "add_options", "run", "find", "layer_of", "load"})
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


def too_long(sources: Mapping[str, str]) -> dict[str, int]:
    """Files with more lines than their folder allows: path → lines. Paths are relative to the repository."""
    lengths = {path: len(source.splitlines()) for path, source in sources.items()}
    return {path: length for path, length in lengths.items() if length > MAX_LINES[path.split("/")[0]]}


def unwieldy_functions(sources: Mapping[str, str]) -> list[str]:
    """Functions with too many lines below signature and docstring, or too many arguments that go by position."""
    found = []
    for path, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            where, lines = f"{path}:{node.lineno}: {node.name}", _body_lines(node)
            positional = [a for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in ("self", "cls")]
            if lines > MAX_FUNCTION_LINES:
                found.append(f"{where} has {lines} lines below its docstring")
            if path.startswith(PACKAGE) and len(positional) > MAX_POSITIONAL and node.name not in AS_TRL_CALLS_THEM:
                found.append(f"{where} takes {len(positional)} arguments by position; make some keyword-only")
    return found


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines below the signature and the docstring."""
    above = node.body[0].end_lineno if ast.get_docstring(node) is not None else node.body[0].lineno - 1
    return (node.end_lineno or 0) - (above or 0)


def shared_runs(sources: Mapping[str, str], longest: int = MAX_SHARED_LINES) -> list[str]:
    """Pairs of places with more than `longest` equal lines in a row; empty lines and imports do not count."""
    places: dict[tuple[str, ...], tuple[str, int]] = {}
    found: dict[tuple[str, str], str] = {}
    for path, source in sources.items():
        lines = _lines_that_count(source)
        for start in range(len(lines) - longest):
            run = lines[start : start + longest + 1]
            key, place = tuple(text for _, text in run), (path, run[0][0])
            other = places.setdefault(key, place)
            apart = other[0] != path or place[1] - other[1] > longest
            if other != place and apart and (other[0], path) not in found:
                found[other[0], path] = f"{path}:{place[1]} repeats {longest + 1} lines of {other[0]}:{other[1]}"
    return list(found.values())


def _lines_that_count(source: str) -> list[tuple[int, str]]:
    imports = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    numbered = enumerate((line.strip() for line in source.splitlines()), start=1)
    return [(number, line) for number, line in numbered if line and number not in imports]
