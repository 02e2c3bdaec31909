"""From a user's settings to the engine that serves them; what the callback and the trainer have in common."""

from __future__ import annotations

from collections.abc import Sequence

from ...feature_set import FeatureSet
from .engine import SASFTEngine, codes_of
from .features_term import FeaturesTerm
from .loss import Baseline, Scale
from .segments import LanguageOf


def build_engine(
    features: FeatureSet | None,
    suppress: str | Sequence[str],
    weight: float,
    *,
    baseline: Baseline = "mean",
    scale: Scale = "raw",
    language_of: LanguageOf | None = None,
    refresh_baselines: int = 0,
) -> SASFTEngine:
    """The engine with the terms that these settings ask for.

    Args:
        features: the feature set; None leaves the features' term out, which needs a weight of 0.
        suppress, weight, baseline, scale, language_of, refresh_baselines: as in `SASFTCallback`.

    Raises:
        ValueError: a setting out of range, an unknown code, a language for which there is no feature, or features
            missing.
    """
    if features is None:
        if weight:
            raise ValueError(
                "No features: give a feature set, or a weight of 0 for plain SFT (SASFTConfig: features, sasft_weight)."
            )
        return SASFTEngine((), (), ())
    codes = codes_of(suppress)
    term = FeaturesTerm(features, codes, weight, baseline, scale, refresh_baselines)
    return SASFTEngine(codes, (term,), term.features.languages, language_of)
