"""Every way to train on one process: what SASFT adds to the gradient is the hand-written auxiliary term."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from .exactness import WEIGHT, Example, Row, adapted, answers, error_of_the_addition, moved, reference, relative_error
from .routes import with_callback, with_trainer
from .world import Route, World

both_routes = pytest.mark.parametrize("route", [with_callback, with_trainer])


def mixture(world: World) -> nn.Module:
    torch.manual_seed(1)
    dense_config = world.make_model().config.to_dict()
    for key in ("model_type", "architectures", "layer_types", "transformers_version"):
        dense_config.pop(key, None)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "output_router_logits": True}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**dense_config, **experts))


def streamed(world: World) -> tuple[Any, list[Example]]:
    dataset, examples = answers(world)
    return dataset.to_iterable_dataset(), examples


def full_texts(world: World) -> tuple[Any, list[Example]]:
    dataset, examples = answers(world)
    texts = dataset.map(
        lambda row: {"text": row["prompt"] + row["completion"]}, remove_columns=["prompt", "completion"]
    )
    return texts, [(ids, [-100, *ids[1:]], language) for ids, _, language in examples]


def summed_over_items(outputs: Any, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
    logits = outputs.logits[:, :-1].flatten(0, 1)
    return cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100, reduction="sum") / num_items_in_batch


TWO_STEPS = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
FOUR_STEPS = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
CHECKPOINTED = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
REENTRANT = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
PACKED = {"packing": True, "max_length": 24}
ROWS: dict[str, Row] = {
    "plain": Row(),
    "accumulation of 2": Row(TWO_STEPS),
    "accumulation of 4": Row(FOUR_STEPS),
    "checkpointing": Row(CHECKPOINTED),
    "reentrant checkpointing": Row(REENTRANT),
    "LoRA": Row(make=adapted()),
    "LoRA, checkpointing": Row(CHECKPOINTED, adapted()),
    "LoRA, reentrant checkpointing": Row(REENTRANT, adapted()),
    "DoRA": Row(make=adapted(use_dora=True)),
    "LoRA with modules_to_save": Row(make=adapted(modules_to_save=["embed_tokens"])),
    "packing bfd": Row({**PACKED, "packing_strategy": "bfd"}),
    "packing bfd, accumulation": Row({**PACKED, "packing_strategy": "bfd", **FOUR_STEPS}),
    "packing bfd_split": Row({**PACKED, "packing_strategy": "bfd_split"}),
    "padding-free": Row({"padding_free": True, "max_length": None}),
    "full-sequence loss": Row(data=full_texts),
    "loss dft": Row({"loss_type": "dft"}),
    "loss dft, accumulation": Row({"loss_type": "dft", **FOUR_STEPS}),
    "label smoothing": Row({"label_smoothing_factor": 0.1}),
    "compute_loss_func": Row({"compute_loss_func": summed_over_items, **FOUR_STEPS}),
    "mixture of experts, router loss": Row(make=mixture),
    "mixture of experts, accumulation": Row(FOUR_STEPS, mixture),
    "streamed dataset": Row({"shuffle_dataset": False}, data=streamed),
}


@pytest.mark.parametrize("name", ROWS)
@both_routes
def test_what_is_added_is_the_auxiliary_gradient(route: Route, name: str, world: World) -> None:
    assert error_of_the_addition(world, route, ROWS[name]) <= 1e-5


@pytest.mark.parametrize("pure", [False, True], ids=["autocast", "pure"])
@both_routes
def test_bfloat16_stays_within_its_own_error(route: Route, pure: bool, world: World) -> None:
    """The whole gradient with SASFT strays from the exact one no further than plain SFT's own does."""

    def half(world: World) -> nn.Module:
        return world.make_model().to(torch.bfloat16) if pure else world.make_model()

    errors = {}
    for weight in (0.0, WEIGHT):
        ours = moved(world, route, Row({"bf16": not pure}, half), weight)
        ours = {name: value.float() for name, value in ours.items()}
        errors[weight] = relative_error(ours, reference(world, Row(), weight))
    assert 1e-4 < errors[0.0] < 0.2, "this was not a run in bfloat16"
    assert errors[WEIGHT] < 1.5 * errors[0.0]
