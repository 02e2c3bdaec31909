"""The model card that is published with a feature set."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import ModelCard, ModelCardData

if TYPE_CHECKING:
    from . import FeatureSet


def card_of(features: FeatureSet) -> ModelCard:
    """Make a card that states the model, the SAE, the languages and the mean activation of each feature."""
    source = features.provenance
    facts = {
        "Base model": f"`{source.base_model}` ({source.num_layers} layers of width {source.d_model})",
        "Sparse autoencoder": f"`{source.sae}`",
        "Chosen by": f"{source.selection}, with sae-posttrain {source.library_version}",
        "Baselines measured on": ", ".join(features.languages),
        "Calibrated alpha": "" if features.alpha is None else f"{features.alpha:g}",
        "Thresholds": thresholds_in_words(features),
    }
    data = ModelCardData(
        base_model=source.base_model if "/" in source.base_model else None,
        language=[target for target in features.targets if re.fullmatch(r"[a-z]{2,3}", target)] or None,
        library_name="sae-posttrain",
        tags=["sae-posttrain", "sparse-autoencoder", "feature-set"],
    )
    return ModelCard(
        f"---\n{data.to_yaml()}\n---\n\n"
        f"# SAE features of {short_name(source.base_model)}\n\n"
        + "".join(f"- {name}: {fact}\n" for name, fact in facts.items() if fact)
        + f"\nMean activation of each feature in each group of texts:\n\n```\n{features.summary()}\n```\n"
    )


def short_name(name: str) -> str:
    """The last part of a hub id or a path, in lower case."""
    return Path(name.rstrip("/")).name.lower()


def public_name(name: str) -> str:
    """A hub id unchanged; of a local path only the last part, since the rest is private."""
    return name if re.fullmatch(r"[\w-]+/[\w.-]+", name) else Path(name).name


def thresholds_in_words(features: FeatureSet) -> str:
    """How often the thresholds disagree with the SAE; empty where that was not measured."""
    if features.disagreement is None:
        return ""
    return (
        f"they and the SAE disagree on {features.disagreement:.1%} of the tokens on which at least one of them says "
        "that a feature fires (mean over the features)"
    )
