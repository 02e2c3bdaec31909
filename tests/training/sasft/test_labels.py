"""Training by label: it is training by language under other names, bit for bit; and what is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from datasets import IterableDataset
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
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "packing": {"packing": True, "max_length": 40},
    "padding-free": {"padding_free": True, "max_length": None},
    "streamed": {"max_steps": 1},
}


@pytest.mark.parametrize(
    ("route", "way"),
    [(with_labels, "plain"), (with_labels, "padding-free"), (with_labels, "streamed")]
    + [(with_trainer, way) for way in WAYS],
)
def test_labels_are_languages_under_other_names(route: Any, way: str, world: World, by_label: FeatureSet) -> None:
    settings = WAYS[way]

    def shaped(dataset: Any) -> Any:
        return dataset.to_iterable_dataset() if way == "streamed" else dataset

    named = {**settings, **({"label_column": "kind"} if route is with_trainer else {})}
    run = world.run(route, suppress=["toxic"], features=by_label, dataset=shaped(labelled(world)), **named)
    ours, log = trained(run), run.state.log_history[0]
    settings = {**settings, "dataset": shaped(world.dataset)}
    theirs = trained(world.run(with_trainer, suppress=["zh"], **settings))
    other = trained(world.run(with_trainer, suppress=["zh"], weight=0.0, **settings))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert not all(torch.equal(value, other[name]) for name, value in ours.items())
    assert log["sasft_pre_activation_toxic"] != 0
    assert log["sasft_unknown_share"] == 0


def test_a_stream_with_a_label_that_is_no_text_names_the_row(world: World, by_label: FeatureSet) -> None:
    dataset = labelled(world).map(lambda row, place: {"kind": "toxic" if place else "neutral"}, with_indices=True)
    rows = [{**row, "kind": 3 if place == 2 else row["kind"]} for place, row in enumerate(dataset)]
    stream = IterableDataset.from_generator(lambda: iter(rows))
    with pytest.raises(ValueError, match=r"Row 3 of the training set.*Expected a label such as .*, not 3 \(int\)"):
        world.run(with_labels, suppress=["toxic"], features=by_label, dataset=stream, max_steps=1).train()


def test_labels_without_a_baseline_or_missing_are_not_penalised(world: World, by_label: FeatureSet) -> None:
    def share(values: list[str | None]) -> dict[str, float]:
        """The log of a run whose rows have these labels in turn."""
        dataset = labelled(world).map(lambda row, place: {"kind": values[place % len(values)]}, with_indices=True)
        trainer = world.run(with_labels, suppress=["toxic"], features=by_label, dataset=dataset)
        trainer.train()
        return trainer.state.log_history[0]

    mixed, known = share(["something new", None, "neutral", "toxic"]), share(["neutral", "toxic"])
    assert mixed["sasft_no_baseline_share"] > 0
    assert mixed["sasft_unknown_share"] > 0
    assert known["sasft_no_baseline_share"] == known["sasft_unknown_share"] == 0
    assert 0 < mixed["sasft_penalised_share"] < known["sasft_penalised_share"] < 1
    groups = RowGroups.of_labels(["a", "b"])
    assert [groups.id_of(one) for one in ("a", "b", "c", None, "")] == [0, 1, 2, UNKNOWN, UNKNOWN]
    assert groups.names[2] == OTHER_LABELS


@pytest.mark.parametrize(("route", "packing"), [(with_labels, False), (with_trainer, False), (with_trainer, True)])
def test_labels_that_the_feature_set_does_not_know_are_refused(
    route: Any, packing: bool, world: World, by_label: FeatureSet
) -> None:
    """Otherwise nothing would be penalised, and only the log would say so."""
    settings: dict[str, Any] = {"packing": True, "max_length": 40} if packing else {}
    named = {**settings, **({"label_column": "kind"} if route is with_trainer else {})}

    def run(weight: float = 0.1, **values: str) -> Any:
        own = {"suppress": ["toxic"], "features": by_label, "dataset": labelled(world, **values), "weight": weight}
        return world.run(route, **own, **named)

    others = {"en": "Neutral", "ru": "calm"}
    with pytest.raises(ValueError, match=r"No row .* holds 'Neutral', 'calm'.*'toxic'; the feature set has baselines"):
        run(**others)
    run(weight=0.0, **others)  # measures, and changes nothing
    with pytest.raises(ValueError, match=r"holds 'toxic'; .* are spared"):
        run(**dict.fromkeys(LABELS, "toxic"))


def test_refusals(world: World, by_label: FeatureSet) -> None:
    with pytest.raises(ValueError, match="no column with labels"):
        world.run(with_labels, suppress=["toxic"], features=by_label)
    with pytest.raises(ValueError, match="no column 'kind' \\(label_column\\)"):
        world.run(with_trainer, suppress=["toxic"], features=by_label, label_column="kind")
    with pytest.raises(ValueError, match="the token term knows languages only"):
        SASFTCallback(by_label, suppress="toxic", token_weight=1.0, label_column="kind")
    with pytest.raises(ValueError, match="No feature stands for rude"):
        SASFTCallback(by_label, suppress="rude", label_column="kind")
    for value in (3, True, 0.5, ["toxic"], {"is": "toxic"}):
        other = labelled(world).map(lambda row, value=value: {"kind": value})
        with pytest.raises(ValueError, match="expected strings, one label per row"):
            world.run(with_labels, suppress=["toxic"], features=by_label, dataset=other)
    config = SASFTConfig(output_dir=str(world.folder), suppress=["toxic"], label_column="kind", use_cpu=True)
    assert config.loaded(by_label)["label_column"] == "kind"
