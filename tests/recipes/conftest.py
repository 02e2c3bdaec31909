"""Fixtures that the tests of a recipe share."""

from real_weights_world import corpus, listed, original, prepare, runs, scripts, world

__all__ = ["corpus", "listed", "original", "prepare", "runs", "scripts", "world"]
