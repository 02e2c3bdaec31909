"""The import rules of the house, and what in a module's source breaks them."""

from __future__ import annotations

import ast
from dataclasses import dataclass

PACKAGE = "sae_posttrain"

ANY = frozenset({"*"})
# What discovery may import, and with it the two rooms that build on discovery.
FEATURES = frozenset(
    {"bars", "sae", "residual", "steering", "sampling", "metrics", "languages", "feature_set", "vocabulary"}
)
ROOMS: dict[str, frozenset[str]] = {
    "artefacts": frozenset(),
    "bars": frozenset(),
    "residual": frozenset(),
    "languages": frozenset(),
    "feature_set": frozenset(),
    "texts": frozenset(),
    "lazy": frozenset(),
    "wording": frozenset(),
    "sae": frozenset(),
    "vocabulary": frozenset({"languages"}),
    "token_counts": frozenset({"languages"}),
    "metrics": frozenset({"languages"}),
    "sampling": frozenset({"bars", "texts", "languages", "residual"}),
    "expected": frozenset({"bars", "residual", "languages", "vocabulary", "sampling", "metrics"}),
    "steering": frozenset({"feature_set", "residual", "sampling", "metrics"}),
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
    "training.rollouts.mixin",
    "training.rollouts.trainer",
    "lab",
    "cli",
    "__main__",
)
# Small tools that know nothing of features or models, for every room.
TOOLS = frozenset({"lazy", "wording"})
# Libraries that are not installed with the package: only the module named here may import one at module level; others
# import it inside the function that needs it.
OPTIONAL = {
    "peft": "",
    "vllm": "",
    "openai": "",
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
        "ship": frozenset({"shared", "switching", "loops"}),
    },
}


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
    if target in {"__version__", room, *TOOLS, *ROOMS[room]}:
        return None
    if target == "artefacts":  # names only, for every room
        return None
    if target not in ROOMS or not target:
        return f"import from the room that defines it, not from {PACKAGE} itself"
    return f"{room} may import {sorted(ROOMS[room]) or 'nothing of ours'}"


def _complaint_inside(parts: dict[str, frozenset[str]], inner: str, target: str) -> str | None:
    own, other = (name.split(".")[1] if "." in name else "" for name in (inner, target))
    if own in ("", other) or other in parts.get(own, ()):
        return None
    return f"inside {inner.split('.')[0]}, {own} may import {sorted(parts.get(own, ())) or 'nothing'}"
