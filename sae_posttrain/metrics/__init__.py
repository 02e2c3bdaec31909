"""Measures on plain text; no torch."""

from .code_switching import CodeSwitchingReport, Rate, Span, code_switching_rate, unexpected_spans

__all__ = ["CodeSwitchingReport", "Rate", "Span", "code_switching_rate", "unexpected_spans"]
