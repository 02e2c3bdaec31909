"""SASFT's settings as other frameworks hand them over: with a prefix, and as texts."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from sae_posttrain import SASFTCallback
from sae_posttrain.feature_set import FeatureSet
from sae_posttrain.training.sasft.settings import SASFTSettings


def test_every_setting_has_one_name_with_the_prefix_and_a_help() -> None:
    names = SASFTSettings.prefixed()
    assert list(names.values()) == [one.name for one in fields(SASFTSettings)]
    assert all(name.startswith("sasft_") and not name.startswith("sasft_sasft_") for name in names)
    assert all(one.metadata["help"].endswith(".") for one in fields(SASFTSettings))


@pytest.mark.parametrize("codes", ["zh ru", "zh,ru", "[zh, ru]", "['zh', 'ru']", ["zh", "ru"]])
def test_texts_become_values(codes: Any) -> None:
    given = {
        "sasft_features": "zh.safetensors",
        "sasft_suppress": codes,
        "sasft_weight": "5e-4",
        "sasft_token_weight": "auto",
        "sasft_token_share": "0.25",
        "sasft_refresh_baselines": "3",
        "sasft_scale": "typical",
        "sasft_token_counts": "None",
    }
    settings = SASFTSettings.from_prefixed(given)
    assert settings == SASFTSettings(
        features="zh.safetensors",
        suppress=["zh", "ru"],
        sasft_weight=5e-4,
        token_weight="auto",
        token_share=0.25,
        sasft_refresh_baselines=3,
        sasft_scale="typical",
    )


def test_nothing_and_empty_texts_are_the_defaults() -> None:
    assert SASFTSettings.from_prefixed({"sasft_suppress": "", "sasft_token_weight": ""}) == SASFTSettings()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sasft_wieght": "1"}, "Unknown setting sasft_wieght: did you mean sasft_weight?"),
        ({"sasft_qqqqqqqq": "1"}, "expected one of sasft_features, "),
        ({"sasft_weight": "heavy"}, "expected a number of at least 0, or auto"),
        ({"sasft_token_share": "half"}, "sasft_token_share='half': expected a number"),
        ({"sasft_refresh_baselines": "2.5"}, "sasft_refresh_baselines='2.5': expected a whole number"),
        ({"sasft_refresh_baselines": "true"}, "expected a whole number"),
    ],
)
def test_what_cannot_be_read_is_refused(given: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("?", r"\?")):
        SASFTSettings.from_prefixed(given)


def test_they_are_the_arguments_of_a_callback(features: FeatureSet, tmp_path: Path) -> None:
    path = features.save(tmp_path / "features.safetensors")
    settings = SASFTSettings(features=str(path), suppress=["zh"], sasft_weight=0.3, token_weight=2)
    callback = SASFTCallback(**settings.loaded())
    assert {name: term.weight for name, term in callback.engine.terms.items()} == {"features": 0.3, "tokens": 2}
    assert callback.engine.suppress == ("zh",)


def test_a_missing_file_is_left_out_at_weight_0_only(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.safetensors")
    assert SASFTSettings(features=missing, sasft_weight=0).loaded()["features"] is None
    with pytest.raises(FileNotFoundError):
        SASFTSettings(features=missing).loaded()
