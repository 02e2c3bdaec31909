"""The features command, on a set that discovery wrote and on sets made by hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sae_posttrain import FeatureSet
from sae_posttrain.cli import main
from sae_posttrain.feature_set import LayerFeatures, Provenance


def layer(number: int) -> LayerFeatures:
    """Two features for zh, of which the second is also active in ko, and one for ko."""
    return LayerFeatures(
        layer=number,
        ids=(7, 3, 11),
        targets=("zh", "zh", "ko"),
        encoder=torch.randn(3, 8),
        bias=torch.randn(3),
        direction=torch.randn(3, 8),
        score=torch.tensor([3.0, 2.0, 1.0]),
        typical=torch.rand(3) + 1,
        baselines={code: torch.randn(3) for code in ("en", "ko", "zh")},
        activations={
            "en": torch.tensor([0.0, 0.1, 0.0]),
            "ko": torch.tensor([0.0, 0.8, 2.0]),
            "zh": torch.tensor([4.0, 1.0, 0.5]),
        },
    )


@pytest.fixture
def features() -> FeatureSet:
    provenance = Provenance("owner/tiny-base", 8, 4, "owner/SAE-L0_4", {"layer2.sae.pt": "ab"}, "cd", "monolinguality")
    return FeatureSet((layer(2), layer(3)), provenance, alpha=2.0)


@pytest.fixture
def path(features: FeatureSet, tmp_path: Path) -> str:
    return str(features.save(tmp_path / "all.safetensors"))


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--targets", "ko"], {2: (11,), 3: (11,)}),
        (["--targets", "Chinese", "--top", "1"], {2: (7,), 3: (7,)}),
        (["--layers", "3"], {3: (7, 3, 11)}),
        (["--layers", "2", "--top", "1"], {2: (7, 11)}),
        (["--top", "5"], {2: (7, 3, 11), 3: (7, 3, 11)}),
    ],
)
def test_a_part_is_written(
    features: FeatureSet, path: str, tmp_path: Path, options: list[str], kept: dict[int, tuple[int, ...]]
) -> None:
    output = tmp_path / "part.safetensors"
    assert main(["features", "select", path, *options, "--output", str(output)]) == 0
    part = FeatureSet.load(output)
    assert {one.layer: one.ids for one in part.layers} == kept
    assert part.provenance == features.provenance
    whole = {one.layer: one for one in features.layers}
    for one in part.layers:
        rows = [whole[one.layer].ids.index(feature) for feature in one.ids]
        assert torch.equal(one.encoder, whole[one.layer].encoder[rows])
        assert torch.equal(one.baselines["en"], whole[one.layer].baselines["en"][rows])


def test_a_calibrated_alpha_is_kept_only_for_the_same_features(
    features: FeatureSet, path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert features.select(["zh"]).alpha == features.select(["zh"], layers=[3, 2], top=2).alpha == 2.0
    assert features.select(["zh"], top=1).alpha is None
    assert main(["features", "select", path, "--layers", "2", "--output", str(tmp_path / "part.safetensors")]) == 0
    assert "no alpha: 2 was calibrated for all features" in capsys.readouterr().out


def test_a_target_that_no_chosen_layer_has(
    features: FeatureSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file without a feature is written."""
    apart = replace(features, layers=(features.layers[0].select(["zh"]), features.layers[1]))
    command = ["features", "select", str(apart.save(tmp_path / "apart.safetensors")), "--targets", "ko"]
    assert main([*command, "--layers", "2", "--output", str(tmp_path / "part.safetensors")]) == 2
    assert "No feature of layers [2] stands for ko; layers [3] have." in capsys.readouterr().err
    assert not (tmp_path / "part.safetensors").exists()
    assert [layer.layer for layer in apart.select(["ko", "zh"], layers=[2]).layers] == [2]


def test_features_are_shown_with_what_speaks_against_them(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "show", path]) == 0
    shown = capsys.readouterr().out
    assert "owner/tiny-base (4 layers of width 8)" in shown
    assert "6 features for ko, zh" in shown
    assert shown.count("is not monolingual") == 2
    assert "Layer 2 feature 3 (for zh) is not monolingual: mean activation 1.000 in zh, but 0.800 in ko" in shown
    assert main(["features", "show", path, "--targets", "ko", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["layer"], one["feature"]) for one in found["features"]] == [(2, 11), (3, 11)]
    assert found["features"][0]["activations"]["ko"] == 2
    assert found["active_elsewhere"] == []


def test_what_is_judged(features: FeatureSet) -> None:
    assert len(features.active_elsewhere()) == 2
    assert len(features.select(["ko"]).active_elsewhere()) == 0
    random = replace(features, provenance=replace(features.provenance, selection="random"))
    assert random.active_elsewhere() == ()
    groups = {"first period": torch.tensor([9.0, 0, 0]), "last period": torch.ones(3), "ordinary text": torch.eye(3)[1]}
    repetition = [
        replace(one, targets=("repetition",) * 3, baselines={}, activations=groups) for one in features.layers
    ]
    (first, _) = replace(features, layers=tuple(repetition)).active_elsewhere()
    assert "Layer 2 feature 3 (for repetition) is not one of repetition alone" in first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "1", "2"], r"No features of layers \[1\]: this set has layers \[2, 3\]"),
        (["--targets", "ru"], "No feature stands for ru: this set has ko, zh"),
        (["--targets", "chinesse"], "chinesse"),
        (["--top", "0"], "top must be at least 1, got 0"),
        ([], "give --targets, --layers or --top"),
    ],
)
def test_refusals(
    path: str, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "part.safetensors"
    assert main(["features", "select", path, *options, "--output", str(output)]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not output.exists()
