"""The settings of SASFT's two auxiliary losses, for any trainer, with their help for YAML and the command line."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_type_hints

import yaml

from ...feature_set import FeatureSet
from ...token_counts import TokenCounts
from .weight import LOSS_BUDGET, parse_weight

logger = logging.getLogger(__name__)

PREFIX = "sasft_"


@dataclass
class SASFTSettings:
    """The settings of a SASFT run. They are the same in every trainer."""

    features: str | None = field(
        default=None, metadata={"help": "Feature set: a .safetensors file, or a hub repository that contains one."}
    )
    suppress: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Codes of the languages to keep out of answers in other languages, such as zh ru. Not needed if "
            "all features belong to one language."
        },
    )
    # transformers parses a union of str and None as str, so that `auto` works on a command line.
    sasft_weight: float | str | None = field(
        default=5e-4,
        metadata={
            "help": "Weight of the feature term (lambda in the paper). 0 measures without changing the run. auto finds "
            "the largest weight that sasft_loss_budget allows, during training."
        },
    )
    sasft_loss_budget: float = field(
        default=LOSS_BUDGET,
        metadata={
            "help": "Largest increase of the cross-entropy that all terms with weight auto may cause together, as a "
            "share of the cross-entropy, estimated during the run. 0.01 is one per cent."
        },
    )
    sasft_baseline: Literal["mean", "zero"] = field(
        default="mean", metadata={"help": "What pre-activations are compared with: the base model's mean, or zero."}
    )
    sasft_scale: Literal["raw", "typical"] = field(
        default="raw", metadata={"help": "raw: as published. typical: divide each feature by its typical activation."}
    )
    sasft_refresh_baselines: int = field(
        default=0,
        metadata={
            "help": "Number of steps after which the baselines are measured again on the training batches. 0: never."
        },
    )
    token_weight: float | str | None = field(
        default=None,
        metadata={
            "help": "Weight of the token term: unlikelihood of the suppressed language's tokens, which needs no "
            "features. 0 measures without changing the run. auto finds the weight as for sasft_weight. Without a value "
            "there is no token term."
        },
    )
    token_share: float = field(
        default=1.0,
        metadata={
            "help": "Share of the positions for which the token term is computed, such as 0.25, drawn at random."
        },
    )
    token_counts: str | None = field(
        default=None,
        metadata={
            "help": "File of token counts, for languages that share a script; `sae-posttrain discover tokens` "
            "writes it."
        },
    )

    language_column: str = field(
        default="language",
        metadata={
            "help": "Dataset column with each example's language code. Without it, the script of the answer decides."
        },
    )
    label_column: str | None = field(
        default=None,
        metadata={
            "help": "Instead of language_column, for features of a concept: dataset column with each example's label. "
            "The features of a suppressed label are penalised in rows with other labels."
        },
    )

    @property
    def group_column(self) -> str:
        """The column that tells rows apart: by label, if that is named; else by language."""
        return self.label_column or self.language_column

    def check_terms(self) -> None:
        """Refuse settings of another framework that leave nothing to add to the loss.

        Raises:
            ValueError: there is neither a feature set nor a weight of the token term, and the weight is not 0.
        """
        if self.features is None and self.token_weight is None and self.sasft_weight:
            raise ValueError(
                "Nothing to add to the loss: set sasft_features, or sasft_token_weight, which needs no features. "
                "For plain training set sasft_weight to 0."
            )

    def parse_weights(self) -> None:
        """Convert weights that are text to numbers.

        Raises:
            ValueError: a weight is neither a number nor `auto`.
        """
        self.sasft_weight = parse_weight("sasft_weight", self.sasft_weight)
        if self.token_weight is not None:
            self.token_weight = parse_weight("token_weight", self.token_weight)

    def loaded(self, features: FeatureSet | str | Path | None = None) -> dict[str, Any]:
        """The arguments of `SASFTCallback` for these settings, with their files loaded.

        Args:
            features: a feature set or its path, which replaces the setting `features`.

        Raises:
            FileNotFoundError: a file does not exist.
            ValueError: `suppress` is empty, and the features belong to several languages.
        """
        self.parse_weights()
        found = FeatureSet.of(features) if features is not None else _load(self)
        return {
            "features": found,
            "suppress": self.suppress or (_only_target(found) if found is not None else ()),
            "weight": self.sasft_weight,
            "baseline": self.sasft_baseline,
            "scale": self.sasft_scale,
            "refresh_baselines": self.sasft_refresh_baselines,
            "token_weight": self.token_weight,
            "token_share": self.token_share,
            "token_counts": TokenCounts.load(self.token_counts) if self.token_counts is not None else None,
            "loss_budget": self.sasft_loss_budget,
            "label_column": self.label_column,
        }

    @classmethod
    def prefixed(cls) -> dict[str, str]:
        """Mapping from the name of a setting in another framework to the field: sasft_features → features.

        Example:
            >>> SASFTSettings.prefixed()["sasft_token_weight"]
            'token_weight'
        """
        names = [one.name for one in fields(cls)]
        return {name if name.startswith(PREFIX) else PREFIX + name: name for name in names}

    @classmethod
    def from_prefixed(cls, given: Mapping[str, Any]) -> Self:
        """Read the settings from another framework's configuration, which may contain values or texts.

        Args:
            given: name with the prefix `sasft_` → value. A text is parsed as YAML would parse it. An empty text counts
                as not set.

        Raises:
            ValueError: an unknown name (the message suggests the nearest), or a value of the wrong type.

        Example:
            >>> settings = SASFTSettings.from_prefixed({"sasft_suppress": "zh ru", "sasft_token_weight": "100"})
            >>> settings.suppress, settings.token_weight
            (['zh', 'ru'], 100.0)
        """
        names = cls.prefixed()
        for name in given:
            if name not in names:
                nearest = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {nearest[0]}?" if nearest else f"expected one of {', '.join(names)}."
                raise ValueError(f"Unknown setting {name}: {hint}")
        kinds = get_type_hints(cls)
        read = {names[name]: _value(name, value, kinds[names[name]]) for name, value in given.items() if value != ""}
        settings = cls(**read)
        settings.parse_weights()
        return settings


def _value(name: str, value: Any, kind: Any) -> Any:
    """Convert a setting's value to the type of its field."""
    optional = type(None) in get_args(kind)
    if optional and (value is None or value in ("None", "null")):
        return None
    if kind == list[str]:
        return _codes(value)
    if kind in (int, float):
        number = yaml.safe_load(value) if isinstance(value, str) else value
        try:
            if isinstance(number, bool) or (kind is int and int(number) != float(number)):
                raise TypeError
            return kind(number)
        except (TypeError, ValueError):
            what = "a whole number" if kind is int else "a number"
            raise ValueError(f"{name}={value!r}: expected {what}.") from None
    return value  # a path, a weight or a choice, which is checked where it is used


def _codes(value: Any) -> list[str]:
    """Language codes from `zh ru`, `zh, ru`, a list, or a list as text, which some frameworks pass on."""
    if isinstance(value, str):
        read = yaml.safe_load(value) if value.lstrip().startswith("[") else value.replace(",", " ").split()
        return [str(code) for code in read]
    return list(value)


def _load(settings: SASFTSettings) -> FeatureSet | None:
    """Load the feature set of the settings. With weight 0 it may be missing; the run is then plain SFT.

    Raises:
        FileNotFoundError: the file does not exist, and the weight is not 0.
    """
    if settings.features is None:
        return None
    try:
        return FeatureSet.load(settings.features)
    except FileNotFoundError as error:
        if settings.sasft_weight:
            raise
        logger.warning("%s sasft_weight is 0, so the run continues without it and does not measure features.", error)
        return None


def _only_target(features: FeatureSet) -> list[str]:
    """The default of `suppress`: the language to which all features belong.

    Raises:
        ValueError: the features belong to several languages.
    """
    if len(features.targets) != 1:
        raise ValueError(
            f"suppress is empty, and the features belong to {', '.join(features.targets) or 'no language'}. Name the "
            "language or languages to keep out, such as SASFTConfig(suppress=['zh'])."
        )
    return list(features.targets)
