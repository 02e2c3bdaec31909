"""Analyse data sets by their SAE features: redundancy, overlap, selection of examples, and classes of texts."""

from .classification import Verdict, classify
from .overlap import Overlap, expected_overlap, order_of_benchmarks, overlap, partial_correlation
from .redundancy import Redundancy, ranking_agreement, ranking_redundancy, redundancy
from .selection import Selection, length_matched_coverage, select_by_coverage

__all__ = [
    "Overlap",
    "Redundancy",
    "Selection",
    "Verdict",
    "classify",
    "expected_overlap",
    "length_matched_coverage",
    "order_of_benchmarks",
    "overlap",
    "partial_correlation",
    "ranking_agreement",
    "ranking_redundancy",
    "redundancy",
    "select_by_coverage",
]
