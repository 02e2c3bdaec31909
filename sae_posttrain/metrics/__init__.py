"""Measures on plain text. They do not need torch."""

from .code_switching import CodeSwitchingReport, code_switching_rate
from .comparison import Difference, compare_rates
from .expectation import ExpectedSwitch, ExpectedSwitchReport, expected_switch_report
from .expected_comparison import ExpectedComparison, ExpectedDifference, compare_expected
from .identification import langid_identifier, langid_scorer
from .language_confusion import LanguageConfusionReport, confused_spans, language_confusion
from .loops import LoopSettings, find_loop, find_loops, looped_share
from .messages import clusters_of, text_of
from .near_loops import NearLoop, find_near_loop
from .phrases import PhraseFinder
from .prose import blank
from .repetition import Repetition, RepetitionReport, find_repetition, repetition_rate
from .report import Report, ReportDifference
from .scripts import Span, unexpected_spans
from .search import Loop
from .share import Share
from .switches import SwitchCriteria, allowed_in
from .thinking import Thinking, split_thinking
from .units import distinct_n, rep_n

__all__ = [
    "CodeSwitchingReport",
    "Difference",
    "ExpectedComparison",
    "ExpectedDifference",
    "ExpectedSwitch",
    "ExpectedSwitchReport",
    "LanguageConfusionReport",
    "Loop",
    "LoopSettings",
    "NearLoop",
    "PhraseFinder",
    "Repetition",
    "RepetitionReport",
    "Report",
    "ReportDifference",
    "Share",
    "Span",
    "SwitchCriteria",
    "Thinking",
    "allowed_in",
    "blank",
    "clusters_of",
    "code_switching_rate",
    "compare_expected",
    "compare_rates",
    "confused_spans",
    "distinct_n",
    "expected_switch_report",
    "find_loop",
    "find_loops",
    "find_near_loop",
    "find_repetition",
    "langid_identifier",
    "langid_scorer",
    "language_confusion",
    "looped_share",
    "rep_n",
    "repetition_rate",
    "split_thinking",
    "text_of",
    "unexpected_spans",
]
