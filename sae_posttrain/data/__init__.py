"""Analyse data sets by their SAE features: redundancy, overlap, and selection of examples."""

from .overlap import Overlap, overlap, partial_correlation
from .redundancy import Redundancy, ranking_agreement, redundancy
from .selection import Selection, select_by_coverage

__all__ = [
    "Overlap",
    "Redundancy",
    "Selection",
    "overlap",
    "partial_correlation",
    "ranking_agreement",
    "redundancy",
    "select_by_coverage",
]
