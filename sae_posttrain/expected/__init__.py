"""Estimate code-switching rates from a model's next-token probabilities, without sampling."""

from .switching import Setting, expected_switch_rate, switch_probabilities

__all__ = ["Setting", "expected_switch_rate", "switch_probabilities"]
