"""Analyse and classify data sets by their SAE features, choose examples, and write those that are missing."""

from .classification import Verdict, classify
from .coverage import CoverageCurve, TargetCoverage, coverage_at, coverage_curve, coverage_to_json, target_coverage
from .generators import Generator, kept_answers, load_generator, server_generator
from .instructions import Instructions
from .overlap import Overlap, expected_overlap, order_of_benchmarks, overlap, partial_correlation
from .redundancy import Redundancy, ranking_agreement, ranking_redundancy, redundancy
from .selection import Selection, length_matched_coverage, select_by_coverage
from .synthesis import SynthesisTarget, SyntheticExample, explain_features, judge_relevance, synthesize_examples
from .verification import Verification, verify_targets

__all__ = [
    "CoverageCurve",
    "Generator",
    "Instructions",
    "Overlap",
    "Redundancy",
    "Selection",
    "SynthesisTarget",
    "SyntheticExample",
    "TargetCoverage",
    "Verdict",
    "Verification",
    "classify",
    "coverage_at",
    "coverage_curve",
    "coverage_to_json",
    "expected_overlap",
    "explain_features",
    "judge_relevance",
    "kept_answers",
    "length_matched_coverage",
    "load_generator",
    "order_of_benchmarks",
    "overlap",
    "partial_correlation",
    "ranking_agreement",
    "ranking_redundancy",
    "redundancy",
    "select_by_coverage",
    "server_generator",
    "synthesize_examples",
    "target_coverage",
    "verify_targets",
]
