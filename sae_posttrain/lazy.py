"""Public names that are looked up on first use, so that a package's import loads none of what defines them."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # type checkers take it for true; importing it from typing would double the package's own import
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for a package's `__init__`.

    Args:
        package: its `__name__`.
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
