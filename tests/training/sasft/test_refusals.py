"""What cannot work is refused before training, with what to change."""

import math
from dataclasses import replace
from typing import Any

import pytest
from datasets import Dataset
from peft import LoraConfig, get_peft_model

from sae_posttrain import FeatureSet, SASFTCallback, SASFTConfig, SASFTTrainer

from .routes import plain, with_callback, with_trainer
from .world import Route, World

both_routes = pytest.mark.parametrize("route", [with_callback, with_trainer])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": -1.0}, "weight=-1.0"),
        ({"weight": math.nan}, "weight=nan"),
        ({"baseline": "median"}, "baseline='median'"),
        ({"scale": "unit"}, "scale='unit'"),
        ({"weight": "0.1"}, "weight='0.1'"),
        ({"suppress": []}, "suppress is empty"),
        ({"suppress": False}, "quote Norwegian"),
        ({"suppress": [False]}, "quote Norwegian"),
        ({"suppress": "klingon"}, "klingon"),
        ({"suppress": "ko"}, "No feature stands for ko"),
    ],
)
def test_settings(changes: dict[str, Any], message: str, features: FeatureSet) -> None:
    with pytest.raises(ValueError, match=message):
        SASFTCallback(features, **{"suppress": "zh", **changes})


@both_routes
def test_features_of_another_model(route: Route, world: World) -> None:
    with pytest.raises(ValueError, match="the model has 2 layers of width 16"):
        world.run(route, model=world.make_model(num_hidden_layers=2))


@both_routes
def test_frozen_layers(route: Route, world: World) -> None:
    adapter = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], layers_to_transform=[2])
    with pytest.raises(ValueError, match="Every trainable parameter sits above layer 1"):
        world.run(route, model=get_peft_model(world.make_model(), adapter))
    upper = replace(world.features, layers=world.features.layers[1:])
    trainer = world.run(route, model=get_peft_model(world.make_model(), adapter), features=upper)
    trainer.train()
    assert trainer.state.log_history[0]["sasft_loss"] > 0


@both_routes
def test_layers_frozen_after_attaching(route: Route, world: World) -> None:
    trainer = world.run(route)
    trainer.model.model.requires_grad_(False)
    trainer.model.model.norm.requires_grad_(True)
    with pytest.raises(RuntimeError, match="No gradient goes back through layer 1"):
        trainer.train()


def test_wrapped_packing_on_the_callback_route(world: World) -> None:
    with pytest.raises(ValueError, match="no boundary between examples"):
        world.run(with_callback, packing=True, packing_strategy="wrapped", max_length=16)


def test_wrapped_packing_without_a_language_column(world: World) -> None:
    dataset = world.dataset.remove_columns("language")
    with pytest.raises(ValueError, match="no boundary between examples"):
        world.run(with_trainer, dataset=dataset, packing=True, packing_strategy="wrapped", max_length=16)


@both_routes
def test_packing_to_no_length(route: Route, world: World) -> None:
    """TRL's own refusal, where SASFTTrainer packs as well."""
    with pytest.raises(ValueError, match="When packing is enabled, `max_length` can't be `None`"):
        world.run(route, packing=True, max_length=None)


@both_routes
def test_a_dataset_without_usable_labels(route: Route, world: World) -> None:
    blank = Dataset.from_list([{"input_ids": [3, 4, 5], "labels": [-100] * 3}] * 4)
    with pytest.raises(ValueError, match="No token of the training set has a label"):
        world.run(route, dataset=blank, max_length=None)


@pytest.mark.parametrize(
    ("route", "packing"), [(with_callback, {}), (with_trainer, {}), (with_trainer, {"packing": True, "max_length": 24})]
)
def test_an_unknown_code_in_the_language_column(route: Route, packing: dict[str, Any], world: World) -> None:
    dataset = Dataset.from_list([*world.dataset, {**world.dataset[0], "language": "chinglish"}])
    with pytest.raises(ValueError, match="chinglish"):
        world.run(route, dataset=dataset, **packing)


def test_a_second_callback(world: World) -> None:
    trainer = world.run(with_callback)
    with pytest.raises(ValueError, match="already has SASFT"):
        SASFTCallback(world.features, suppress="ru").set_trainer(trainer)


def test_a_callback_on_the_trainer_that_has_it_already(world: World) -> None:
    with pytest.raises(ValueError, match="already has SASFT"):
        SASFTCallback(world.features, suppress="ru").set_trainer(world.run(with_trainer))


def test_a_callback_that_was_never_added(world: World) -> None:
    trainer = world.run(plain)
    SASFTCallback(world.features, suppress="zh").set_trainer(trainer)
    with pytest.raises(RuntimeError, match=r"trainer.add_callback\(callback\)"):
        trainer.train()


def test_a_language_column_that_is_not_there(world: World) -> None:
    with pytest.raises(ValueError, match=r"no column 'lang' .* It has .*language"):
        SASFTTrainer(
            world.make_model(),
            SASFTConfig(**world.arguments(), suppress=["zh"], language_column="lang"),
            features=world.features,
            train_dataset=world.dataset,
            processing_class=world.tokenizer,
        )


@both_routes
def test_a_language_column_of_numbers(route: Route, world: World) -> None:
    dataset = world.dataset.remove_columns("language").add_column("language", [1] * len(world.dataset))
    with pytest.raises(ValueError, match="expected strings, one language code per row"):
        world.run(route, dataset=dataset)


def test_nothing_that_tells_the_language(world: World) -> None:
    trainer = world.run(plain, dataset=world.dataset.remove_columns("language"))
    trainer.processing_class = None
    with pytest.raises(ValueError, match="The languages of the samples cannot be found"):
        SASFTCallback(world.features, suppress="zh").set_trainer(trainer)


def test_a_config_without_features(world: World) -> None:
    with pytest.raises(ValueError, match="No features"):
        SASFTTrainer(world.make_model(), SASFTConfig(**world.arguments(), suppress=["zh"]))
