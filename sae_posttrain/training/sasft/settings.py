"""The settings of SASFT's two auxiliary losses, for any trainer. Each has the help for YAML and the command line."""

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
    """The settings of a SASFT run, which are the same in every trainer."""

    features: str | None = field(
        default=None, metadata={"help": "Feature set: a .safetensors file, or a hub repository that holds one."}
    )
    suppress: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Codes of the languages to keep out of answers in other languages: zh ru. May be left out if the "
            "features stand for one language only."
        },
    )
    # transformers reads a union with a text and None as a text, which is what `auto` needs on a command line.
    sasft_weight: float | str | None = field(
        default=5e-4,
        metadata={
            "help": "Weight of the feature term (lambda in the paper). 0 measures without changing the run; auto finds "
            "the weight during training, as large as sasft_loss_budget allows."
        },
    )
    sasft_loss_budget: float = field(
        default=LOSS_BUDGET,
        metadata={
            "help": "Increase of the cross-entropy that all terms with weight auto may cause together, as a share "
            "of the cross-entropy (0.01: one per cent) and by the run's own estimate."
        },
    )
    sasft_baseline: Literal["mean", "zero"] = field(
        default="mean", metadata={"help": "What a pre-activation is compared with: the base model's mean, or zero."}
    )
    sasft_scale: Literal["raw", "typical"] = field(
        default="raw", metadata={"help": "raw, as published; or each feature in units of its typical activation."}
    )
    sasft_refresh_baselines: int = field(
        default=0,
        metadata={
            "help": "Number of steps after which the baselines are measured again, on the training batches; 0: never."
        },
    )
    token_weight: float | str | None = field(
        default=None,
        metadata={
            "help": "Weight of the token term: unlikelihood of the suppressed language's tokens, which needs no "
            "features. 0 measures without changing anything; auto finds the weight as for sasft_weight; without a "
            "value there is no token term."
        },
    )
    token_share: float = field(
        default=1.0,
        metadata={
            "help": "Share of the positions, drawn at random, for which the token term is computed, such as 0.25."
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

    def check_terms(self) -> None:
        """Refuse settings of another framework with which there would be nothing to add to the loss.

        Raises:
            ValueError: neither a feature set nor a weight of the token term, in a run that is not of weight 0.
        """
        if self.features is None and self.token_weight is None and self.sasft_weight:
            raise ValueError(
                "Nothing to add to the loss: set sasft_features, or sasft_token_weight, which needs no features. "
                "For plain training set sasft_weight to 0."
            )

    def parse_weights(self) -> None:
        """Turn weights that came as text into numbers.

        Raises:
            ValueError: a weight that is neither a number nor `auto`.
        """
        self.sasft_weight = parse_weight("sasft_weight", self.sasft_weight)
        if self.token_weight is not None:
            self.token_weight = parse_weight("token_weight", self.token_weight)

    def loaded(self, features: FeatureSet | str | Path | None = None) -> dict[str, Any]:
        """The arguments of `SASFTCallback` that these settings stand for, with their files read.

        Args:
            features: a feature set or its path, instead of what the setting `features` names.

        Raises:
            FileNotFoundError: a file that is not there.
            ValueError: no language to suppress is named, and the features stand for several.
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
        }

    @classmethod
    def prefixed(cls) -> dict[str, str]:
        """Name of each setting where it stands among another framework's settings → field: sasft_features → features.

        Example:
            >>> SASFTSettings.prefixed()["sasft_token_weight"]
            'token_weight'
        """
        names = [one.name for one in fields(cls)]
        return {name if name.startswith(PREFIX) else PREFIX + name: name for name in names}

    @classmethod
    def from_prefixed(cls, given: Mapping[str, Any]) -> Self:
        """The settings that another framework's configuration holds, as values or as texts.

        Args:
            given: name with the prefix `sasft_` → value. A text stands for what YAML would read from it; an empty one
                is left out.

        Raises:
            ValueError: an unknown name, for which the message names the nearest; or a value of another kind.

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
    """A setting's value, of the kind that its field has."""
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
    return value  # a path, a weight or one of several words, which are checked where they are used


def _codes(value: Any) -> list[str]:
    """Language codes from `zh ru`, `zh, ru`, a list, or the text of a list, as some frameworks hand it on."""
    if isinstance(value, str):
        read = yaml.safe_load(value) if value.lstrip().startswith("[") else value.replace(",", " ").split()
        return [str(code) for code in read]
    return list(value)


def _load(settings: SASFTSettings) -> FeatureSet | None:
    """The feature set that the settings name; a run of weight 0 is plain SFT without one.

    Raises:
        FileNotFoundError: there is none, and the weight is not 0.
    """
    if settings.features is None:
        return None
    try:
        return FeatureSet.load(settings.features)
    except FileNotFoundError as error:
        if settings.sasft_weight:
            raise
        logger.warning("%s This run of sasft_weight 0 trains without it, and does not measure the features.", error)
        return None


def _only_target(features: FeatureSet) -> list[str]:
    """The default of `suppress`: the one language that all features stand for.

    Raises:
        ValueError: they stand for several.
    """
    if len(features.targets) != 1:
        raise ValueError(
            f"suppress is empty, and the features stand for {', '.join(features.targets) or 'no language'}: name the "
            "language or languages to keep out, such as SASFTConfig(suppress=['zh'])."
        )
    return list(features.targets)
