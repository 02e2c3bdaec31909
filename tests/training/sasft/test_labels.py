"""Training by label: it is training by language under other names, bit for bit; and what is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_posttrain import FeatureSet, SASFTCallback, SASFTConfig
from sae_posttrain.training.sasft.segments import OTHER_LABELS, UNKNOWN, RowGroups

from .routes import plain, with_trainer
from .world import World

LABELS = {"zh": "toxic", "ru": "very calm", "en": "neutral"}


@pytest.fixture
def by_label(world: World) -> FeatureSet:
    """The same features, which stand for labels instead of languages."""
    layers = tuple(
        replace(
            layer,
            targets=tuple(LABELS[code] for code in layer.targets),
            baselines={LABELS[code]: values for code, values in layer.baselines.items()},
            activations={LABELS[code]: values for code, values in layer.activations.items()},
        )
        for layer in world.features.layers
    )
    provenance = replace(world.features.provenance, selection="contrast of activation")
    return replace(world.features, layers=layers, provenance=provenance)


def labelled(world: World, **values: str | None) -> Any:
    names = {**LABELS, **values}
    return world.dataset.map(lambda row: {"kind": names[row["language"]]}).remove_columns("language")


def with_labels(model: Any, features: FeatureSet, suppress: Any, weight: Any, **kwargs: Any) -> Any:
    trainer = plain(model, features, suppress, weight, **kwargs)
    callback = SASFTCallback(features, suppress=suppress, weight=weight, label_column="kind")
    trainer.add_callback(callback.set_trainer(trainer))
    return trainer


def trained(trainer: Any) -> dict[str, Tensor]:
    trainer.train()
    return {name: value.clone() for name, value in trainer.model.named_parameters()}


# Packing drops the column of a plain trainer; SASFTTrainer carries it through.
@pytest.mark.parametrize(("route", "packing"), [(with_labels, False), (with_trainer, False), (with_trainer, True)])
def test_labels_are_languages_under_other_names(route: Any, packing: bool, world: World, by_label: FeatureSet) -> None:
    settings: dict[str, Any] = {"packing": True, "max_length": 40} if packing else {}
    named = {**settings, **({"label_column": "kind"} if route is with_trainer else {})}
    run = world.run(route, suppress=["toxic"], features=by_label, dataset=labelled(world), **named)
    ours, log = trained(run), run.state.log_history[0]
    theirs = trained(world.run(with_trainer, suppress=["zh"], **settings))
    other = trained(world.run(with_trainer, suppress=["zh"], weight=0.0, **settings))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert not all(torch.equal(value, other[name]) for name, value in ours.items())
    assert log["sasft_pre_activation_toxic"] != 0
    assert log["sasft_unknown_share"] == 0


def test_labels_without_a_baseline_or_missing_are_not_penalised(world: World, by_label: FeatureSet) -> None:
    dataset = labelled(world, en="something new", ru=None)
    trainer = world.run(with_labels, suppress=["toxic"], features=by_label, dataset=dataset)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["sasft_penalised_share"] == 0
    assert log["sasft_no_baseline_share"] > 0
    assert log["sasft_unknown_share"] > 0
    groups = RowGroups.of_labels(["a", "b"])
    assert [groups.id_of(one) for one in ("a", "b", "c", None, "")] == [0, 1, 2, UNKNOWN, UNKNOWN]
    assert groups.names[2] == OTHER_LABELS


def test_refusals(world: World, by_label: FeatureSet) -> None:
    with pytest.raises(ValueError, match="no column with labels"):
        world.run(with_labels, suppress=["toxic"], features=by_label)
    with pytest.raises(ValueError, match="no column 'kind' \\(label_column\\)"):
        world.run(with_trainer, suppress=["toxic"], features=by_label, label_column="kind")
    with pytest.raises(ValueError, match="the token term knows languages only"):
        SASFTCallback(by_label, suppress="toxic", token_weight=1.0, label_column="kind")
    with pytest.raises(ValueError, match="No feature stands for rude"):
        SASFTCallback(by_label, suppress="rude", label_column="kind")
    numbers = labelled(world).map(lambda row: {"kind": 3})
    with pytest.raises(ValueError, match="expected strings"):
        world.run(with_labels, suppress=["toxic"], features=by_label, dataset=numbers)
    config = SASFTConfig(output_dir=str(world.folder), suppress=["toxic"], label_column="kind", use_cpu=True)
    assert config.loaded(by_label)["label_column"] == "kind"
