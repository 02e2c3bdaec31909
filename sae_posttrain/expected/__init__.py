"""Rates that a model's own probabilities give, without sampling."""

from .switching import Setting, expected_switch_rate, switch_probabilities

__all__ = ["Setting", "expected_switch_rate", "switch_probabilities"]
