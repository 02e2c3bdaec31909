"""The trainer that is running, for callbacks, which are not told."""

from __future__ import annotations

import sys

from transformers import Trainer


def calling_trainer() -> Trainer | None:
    """The trainer whose `train` is running, found up the call stack; None outside of one."""
    frame = sys._getframe()
    while frame is not None:
        candidate = frame.f_locals.get("self")
        if isinstance(candidate, Trainer):
            return candidate
        frame = frame.f_back  # type: ignore[assignment]
    return None
