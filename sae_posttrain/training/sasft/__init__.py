"""SASFT: keep a language's features quiet on samples of other languages. Source: arXiv:2507.14894."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .callback import SASFTCallback

if TYPE_CHECKING:
    from .trainer import SASFTConfig, SASFTTrainer

__all__ = ["SASFTCallback", "SASFTConfig", "SASFTTrainer"]


def __getattr__(name: str) -> Any:
    # Only the trainer needs TRL; the callback serves other trainers too.
    if name in ("SASFTConfig", "SASFTTrainer"):
        return getattr(import_module(".trainer", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
