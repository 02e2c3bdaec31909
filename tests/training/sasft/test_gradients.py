"""Both routes give the hand-written gradient, however the examples are batched."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from trl import SFTTrainer

from sae_posttrain import FeatureSet
from sae_posttrain.residual import decoder_blocks

from .reference import auxiliary, gradients
from .routes import Route, one_step_arguments, with_callback, with_trainer

WEIGHT = 0.7
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"per_device_train_batch_size": 8},
    "accumulation": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    "checkpointing": {"per_device_train_batch_size": 8, "gradient_checkpointing": True},
    "padding_free": {"per_device_train_batch_size": 8, "padding_free": True, "max_length": None},
    "bfd": {"per_device_train_batch_size": 8, "packing": True, "packing_strategy": "bfd", "max_length": 24},
    "bfd_accumulation": {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "packing": True,
        "packing_strategy": "bfd",
        "max_length": 24,
    },
}


def examples_of(
    tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, str]]
) -> list[tuple[list[int], list[int], str]]:
    examples = []
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = tokenizer(row["prompt"] + row["completion"] + " <eos>")["input_ids"]
        examples.append((ids, [-100] * len(prompt) + ids[len(prompt) :], row["language"]))
    return examples


def relative_error(moved: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    difference = sum((moved[name] - expected[name]).square().sum() for name in expected)
    return float((difference / sum(value.square().sum() for value in expected.values())).sqrt())


def check(
    route: Route,
    model: nn.Module,
    features: FeatureSet,
    tokenizer: PreTrainedTokenizerFast,
    rows: list[dict[str, str]],
    folder: Path,
    suppress: tuple[str, ...] = ("zh",),
    with_column: bool = True,
    **settings: Any,
) -> SFTTrainer:
    reference = copy.deepcopy(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    # TRL appends the end token without a space, which this word-level tokenizer would not split.
    dataset = Dataset.from_list([{**row, "completion": row["completion"] + " <eos>"} for row in rows])
    trainer = route(
        model,
        features,
        list(suppress),
        WEIGHT,
        args=one_step_arguments(folder, **settings),
        train_dataset=dataset if with_column else dataset.remove_columns("language"),
        processing_class=tokenizer,
    )
    trainer.train()
    moved = {name: before[name] - p.detach() for name, p in trainer.model.named_parameters() if name in before}
    loss_of = partial(auxiliary, features=features, suppress=suppress)
    expected = gradients(reference, list(decoder_blocks(reference)), examples_of(tokenizer, rows), loss_of, WEIGHT)
    plain = gradients(reference, list(decoder_blocks(reference)), examples_of(tokenizer, rows), loss_of, 0.0)
    assert relative_error(plain, expected) > 0.01, "the auxiliary term is too small for this test to see"
    assert relative_error(moved, expected) <= 1e-5
    return trainer


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("route", [with_callback, with_trainer])
def test_gradient_equals_the_hand_written_one(
    route: Route,
    settings: dict[str, Any],
    make_model: Callable[..., nn.Module],
    features: FeatureSet,
    tokenizer: PreTrainedTokenizerFast,
    rows: list[dict[str, str]],
    tmp_path: Path,
) -> None:
    check(route, make_model(), features, tokenizer, rows, tmp_path, **settings)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("route", [with_callback, with_trainer])
def test_gradient_of_lora_weights(
    route: Route,
    checkpointing: bool,
    make_model: Callable[..., nn.Module],
    features: FeatureSet,
    tokenizer: PreTrainedTokenizerFast,
    rows: list[dict[str, str]],
    tmp_path: Path,
) -> None:
    # Random B matrices: with the usual zeros half of the gradients would vanish.
    model = get_peft_model(make_model(), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    settings = {"per_device_train_batch_size": 8, "gradient_checkpointing": checkpointing}
    check(route, model, features, tokenizer, rows, tmp_path, **settings)


@pytest.mark.parametrize("route", [with_callback, with_trainer])
def test_several_languages_add_up(
    route: Route,
    make_model: Callable[..., nn.Module],
    features: FeatureSet,
    tokenizer: PreTrainedTokenizerFast,
    rows: list[dict[str, str]],
    tmp_path: Path,
) -> None:
    check(
        route, make_model(), features, tokenizer, rows, tmp_path, suppress=("zh", "ru"), per_device_train_batch_size=8
    )


def test_every_row_of_a_batch_counts(
    make_model: Callable[..., nn.Module],
    features: FeatureSet,
    tokenizer: PreTrainedTokenizerFast,
    rows: list[dict[str, str]],
    tmp_path: Path,
) -> None:
    """A hook that reads `output[0]` of today's bare tensors would see the first row only, which here is all zh."""
    ordered = sorted(rows, key=lambda row: row["language"], reverse=True)
    trainer = check(
        with_callback,
        make_model(),
        features,
        tokenizer,
        ordered,
        tmp_path,
        per_device_train_batch_size=8,
        shuffle_dataset=False,
        train_sampling_strategy="sequential",
    )
    assert torch.tensor(trainer.state.log_history[0]["sasft_loss"]) > 0


@pytest.mark.parametrize("settings", [SETTINGS["plain"], SETTINGS["bfd"]], ids=["plain", "bfd"])
@pytest.mark.parametrize("route", [with_callback, with_trainer])
def test_language_told_by_script_gives_the_same_gradient(
    route: Route,
    settings: dict[str, Any],
    make_model: Callable[..., nn.Module],
    features: FeatureSet,
    tokenizer: PreTrainedTokenizerFast,
    rows: list[dict[str, str]],
    tmp_path: Path,
) -> None:
    check(route, make_model(), features, tokenizer, rows, tmp_path, with_column=False, **settings)
