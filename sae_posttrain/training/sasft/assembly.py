"""Build the SASFT engine from a user's settings, for the callback and the trainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...feature_set import FeatureSet
from ...languages import LANGUAGES, get_language
from ...token_counts import TokenCounts
from .checks import check_budget
from .engine import SASFTEngine, codes_of
from .features_term import FeaturesTerm
from .finder import WeightFinder
from .loss import Baseline, Scale
from .segments import LanguageOf, RowGroups
from .terms import Term
from .token_term import TokenTerm
from .weight import AUTO, LOSS_BUDGET, Weight

_TOLD_BY_SCRIPT = [one for one in LANGUAGES.values() if len(one.scripts) == 1 or one.code == "ja"]
ONE_OF_EACH_SCRIPT = tuple({one.scripts: one.code for one in reversed(_TOLD_BY_SCRIPT)}.values())
"""The languages that scripts alone can distinguish: one for each writing system, English for all Latin text."""


def build_engine(
    features: FeatureSet | str | Path | None,
    suppress: str | Sequence[str],
    weight: Weight,
    *,
    loss_budget: float = LOSS_BUDGET,
    baseline: Baseline = "mean",
    scale: Scale = "raw",
    language_of: LanguageOf | None = None,
    refresh_baselines: int = 0,
    token_weight: Weight | None = None,
    token_share: float = 1.0,
    token_counts: TokenCounts | None = None,
    label_column: str | None = None,
) -> SASFTEngine:
    """Build the engine with the terms that these settings require.

    Args: as in `SASFTCallback`.

    Raises:
        ValueError: a setting out of range, an unknown code, a language without a feature, or a missing feature set.
    """
    if features is None and token_weight is None:
        if weight:
            raise ValueError(
                "No features: give a feature set; or token_weight, which needs none; or a weight of 0, for plain SFT "
                "(SASFTConfig: features, token_weight, sasft_weight)."
            )
        return SASFTEngine((), (), ())
    if label_column is not None:
        return _engine_by_label(
            *(features, suppress, weight, loss_budget),
            baseline=baseline,
            scale=scale,
            label_of=language_of,
            refresh_baselines=refresh_baselines,
            has_tokens=token_weight is not None,
        )
    codes = codes_of(suppress)
    check_budget(loss_budget)
    terms: list[Term] = []
    candidates: tuple[str, ...] = ONE_OF_EACH_SCRIPT
    if features is not None:
        term = FeaturesTerm(FeatureSet.of(features), codes, weight, baseline, scale, refresh_baselines)
        terms.append(term)
        candidates = term.features.languages
    if token_weight is not None:
        terms.append(TokenTerm(codes, token_weight, token_share, token_counts))
        if token_counts is not None and features is None:
            counted = token_counts.languages
            # Each counted language is a candidate, and so is one language for each writing system that none of them
            # uses.
            taken = {get_language(code).scripts for code in counted}
            rest = (code for code in ONE_OF_EACH_SCRIPT if get_language(code).scripts not in taken)
            candidates = (*counted, *rest)
    asked = {FeaturesTerm.name: weight, TokenTerm.name: token_weight}
    found = [term for term in terms if asked[term.name] == AUTO]
    return SASFTEngine(codes, terms, candidates, language_of, WeightFinder(found, loss_budget))


def _engine_by_label(
    features: FeatureSet | str | Path | None,
    suppress: str | Sequence[str],
    weight: Weight,
    loss_budget: float,
    *,
    baseline: Baseline,
    scale: Scale,
    label_of: LanguageOf | None,
    refresh_baselines: int,
    has_tokens: bool,
) -> SASFTEngine:
    """The engine of training by label: the rows have labels instead of languages."""
    if features is None or has_tokens:
        raise ValueError(
            "label_column is for features of a concept, such as `discover contrast` finds, and the token term knows "
            "languages only. Give features, and leave out token_weight."
        )
    features = FeatureSet.of(features)
    targets = (suppress,) if isinstance(suppress, str) else tuple(suppress)
    if not targets:
        raise ValueError(f"suppress is empty: name what to keep out, of {', '.join(features.targets)}.")
    check_budget(loss_budget)
    groups = RowGroups.of_labels(sorted({*features.languages, *features.targets}))
    term = FeaturesTerm(features, targets, weight, baseline, scale, refresh_baselines, groups=groups)
    finder = WeightFinder([term] if weight == AUTO else [], loss_budget)
    return SASFTEngine(targets, [term], (), label_of, finder, groups=groups)
