"""Both routes give the hand-written gradient, however the examples are batched."""

import copy
from functools import partial
from typing import Any

import pytest
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from trl import SFTTrainer

from sae_posttrain.residual import decoder_blocks

from .reference import auxiliary, gradients
from .routes import Route, World, with_callback, with_trainer

WEIGHT = 0.7
PACKED = {"packing": True, "packing_strategy": "bfd", "max_length": 24}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    "checkpointing": {"gradient_checkpointing": True},
    "padding_free": {"padding_free": True, "max_length": None},
    "bfd": PACKED,
    "bfd_accumulation": {**PACKED, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
}
both_routes = pytest.mark.parametrize("route", [with_callback, with_trainer])


def examples_of(tokenizer: PreTrainedTokenizerFast, dataset: Dataset) -> list[tuple[list[int], list[int], str]]:
    examples = []
    for row in dataset:
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = tokenizer(row["prompt"] + row["completion"])["input_ids"]
        examples.append((ids, [-100] * len(prompt) + ids[len(prompt) :], row["language"]))
    return examples


def relative_error(moved: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    difference = sum((moved[name] - expected[name]).square().sum() for name in expected)
    return float((difference / sum(value.square().sum() for value in expected.values())).sqrt())


def check(
    world: World, route: Route, *, model: nn.Module | None = None, with_column: bool = True, **settings: Any
) -> SFTTrainer:
    """One step moves the weights by minus the gradient computed by hand."""
    model = model if model is not None else world.make_model()
    reference = copy.deepcopy(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    # TRL would append the end token without a space, which this word-level tokenizer would not split.
    dataset = world.dataset.map(lambda row: {"completion": row["completion"] + " <eos>"})
    trainer = world.run(
        route,
        model=model,
        weight=WEIGHT,
        dataset=dataset if with_column else dataset.remove_columns("language"),
        **settings,
    )
    trainer.train()
    moved = {name: before[name] - p.detach() for name, p in trainer.model.named_parameters() if name in before}
    loss_of = partial(auxiliary, features=world.features, suppress=settings.get("suppress", ("zh",)))
    blocks, examples = list(decoder_blocks(reference)), examples_of(world.tokenizer, dataset)
    expected = gradients(reference, blocks, examples, loss_of, WEIGHT)
    plain = gradients(reference, blocks, examples, loss_of, 0.0)
    assert relative_error(plain, expected) > 0.01, "the auxiliary term is too small for this test to see"
    assert relative_error(moved, expected) <= 1e-5
    return trainer


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@both_routes
def test_gradient_equals_the_hand_written_one(route: Route, settings: dict[str, Any], world: World) -> None:
    check(world, route, **settings)


@pytest.mark.parametrize("settings", [SETTINGS["plain"], SETTINGS["bfd"]], ids=["plain", "bfd"])
@both_routes
def test_language_told_by_script_gives_the_same_gradient(route: Route, settings: dict[str, Any], world: World) -> None:
    check(world, route, with_column=False, **settings)


@pytest.mark.parametrize("checkpointing", [False, True])
@both_routes
def test_gradient_of_lora_weights(route: Route, checkpointing: bool, world: World) -> None:
    # Random B matrices: with the usual zeros half of the gradients would vanish.
    adapter = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    check(world, route, model=get_peft_model(world.make_model(), adapter), gradient_checkpointing=checkpointing)


@both_routes
def test_several_languages_add_up(route: Route, world: World) -> None:
    check(world, route, suppress=("zh", "ru"))


def test_every_row_of_a_batch_counts(world: World) -> None:
    """A hook that reads `output[0]` of today's bare tensors would see the first row only, which here is all zh."""
    ordered = World(**{**vars(world), "dataset": world.dataset.sort("language", reverse=True)})
    trainer = check(ordered, with_callback, shuffle_dataset=False, train_sampling_strategy="sequential")
    assert trainer.train_dataset[0]["language"] == "zh"
    assert trainer.state.log_history[0]["sasft_loss"] > 0
