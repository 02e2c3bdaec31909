"""Find the running trainer, which callbacks are not given."""

from __future__ import annotations

import sys

from transformers import Trainer


def calling_trainer() -> Trainer | None:
    """The trainer whose `train` is running, found on the call stack; None if no trainer runs."""
    frame = sys._getframe()
    while frame is not None:
        candidate = frame.f_locals.get("self")
        if isinstance(candidate, Trainer):
            return candidate
        frame = frame.f_back  # type: ignore[assignment]
    return None
