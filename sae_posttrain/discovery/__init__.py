"""From a model, its SAEs and texts to a feature set."""

from .monolinguality import discover_language_features

__all__ = ["discover_language_features"]
