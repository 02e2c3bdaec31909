"""Measures on plain text; no torch."""

from .code_switching import CodeSwitchingReport, Rate, Span, code_switching_rate, unexpected_spans
from .loops import Loop, find_loop, find_loops, fold_digits, looped_share
from .repetition import RepetitionReport, distinct_n, rep_n, repetition_rate

__all__ = [
    "CodeSwitchingReport",
    "Loop",
    "Rate",
    "RepetitionReport",
    "Span",
    "code_switching_rate",
    "distinct_n",
    "find_loop",
    "find_loops",
    "fold_digits",
    "looped_share",
    "rep_n",
    "repetition_rate",
    "unexpected_spans",
]
