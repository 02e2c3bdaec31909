"""SASFT: penalise a language's features in answers in other languages. Source: arXiv:2507.14894."""

from typing import TYPE_CHECKING

from ...lazy import lazily
from .callback import SASFTCallback

if TYPE_CHECKING:
    from .trainer import SASFTConfig, SASFTTrainer

__all__ = ["SASFTCallback", "SASFTConfig", "SASFTTrainer"]
# Only SASFTTrainer needs TRL. The callback also works in other trainers.
__getattr__ = lazily(__name__, {"SASFTConfig": "trainer", "SASFTTrainer": "trainer"})
