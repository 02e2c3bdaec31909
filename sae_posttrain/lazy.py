"""Import public names on first use, so that importing a package does not load the modules that define them."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # type checkers assume it is true. Importing it from typing would double the import time
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Make a `__getattr__` for a package's `__init__` that imports names on first use.

    Args:
        package: the package's `__name__`.
        homes: public name → the module inside the package that defines it.

    Example:
        >>> find = lazily("sae_posttrain", {"repetition_rate": "metrics"})
        >>> find("repetition_rate").__module__
        'sae_posttrain.metrics.repetition'
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f".{homes[name]}", package), name)

    return find
