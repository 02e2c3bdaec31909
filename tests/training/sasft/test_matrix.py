"""Every way of running SFTTrainer on one process: what SASFT adds to the gradient is the hand-written auxiliary term.

Two runs from the same weights, with the weight and with zero, differ by the auxiliary gradient alone; so the reference
needs no copy of what TRL does for each of its losses.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from sae_posttrain.residual import decoder_blocks

from .reference import auxiliary, gradients
from .routes import Route, World, with_callback, with_trainer
from .test_gradients import examples_of, relative_error

WEIGHT = 0.7
both_routes = pytest.mark.parametrize("route", [with_callback, with_trainer])
Make = Callable[[World], nn.Module]


def dense(world: World) -> nn.Module:
    return world.make_model()


def adapted(**settings: Any) -> Make:
    """LoRA with random B matrices: with the usual zeros half of the gradients would vanish."""

    def make(world: World) -> nn.Module:
        torch.manual_seed(5)
        adapter = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, **settings)
        return get_peft_model(world.make_model(), adapter)

    return make


def mixture(world: World) -> nn.Module:
    torch.manual_seed(1)
    dense_config = world.make_model().config.to_dict()
    for key in ("model_type", "architectures", "layer_types", "transformers_version"):
        dense_config.pop(key, None)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "output_router_logits": True}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**dense_config, **experts))


def summed_over_items(outputs: Any, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
    logits = outputs.logits[:, :-1].flatten(0, 1)
    return cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100, reduction="sum") / num_items_in_batch


REENTRANT = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
ACCUMULATED = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
ROWS: dict[str, tuple[Make, dict[str, Any]]] = {
    "uneven accumulation of 4": (dense, ACCUMULATED),
    "reentrant checkpointing": (dense, REENTRANT),
    "lora, reentrant checkpointing": (adapted(), REENTRANT),
    "dora": (adapted(use_dora=True), {}),
    "lora with modules_to_save": (adapted(modules_to_save=["embed_tokens"]), {}),
    "bfd_split": (dense, {"packing": True, "packing_strategy": "bfd_split", "max_length": 24}),
    "dft": (dense, {"loss_type": "dft"}),
    "dft, accumulation": (dense, {"loss_type": "dft", **ACCUMULATED}),
    "label smoothing": (dense, {"label_smoothing_factor": 0.1}),
    "compute_loss_func": (dense, {"compute_loss_func": summed_over_items, **ACCUMULATED}),
    "mixture of experts": (mixture, {}),
    "mixture of experts, accumulation": (mixture, ACCUMULATED),
}


def moved(
    world: World, route: Route, make: Make, weight: float, settings: dict[str, Any], dataset: Any
) -> dict[str, Tensor]:
    model = make(world)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    trainer = world.run(route, model=model, weight=weight, dataset=dataset, **settings)
    trainer.train()
    return {name: before[name] - p.detach() for name, p in trainer.model.named_parameters() if name in before}


def auxiliary_gradient(world: World, make: Make, dataset: Dataset) -> dict[str, Tensor]:
    reference = make(world)
    loss_of = partial(auxiliary, features=world.features, suppress=("zh",))
    blocks, examples = list(decoder_blocks(reference)), examples_of(world.tokenizer, dataset)
    whole, plain = (gradients(reference, blocks, examples, loss_of, weight) for weight in (WEIGHT, 0.0))
    return {name: whole[name] - plain[name] for name in whole}


def added(world: World, route: Route, make: Make, settings: dict[str, Any], dataset: Any) -> dict[str, Tensor]:
    with_weight, without = (moved(world, route, make, weight, settings, dataset) for weight in (WEIGHT, 0.0))
    return {name: with_weight[name] - without[name] for name in without}


@pytest.fixture
def ended(world: World) -> Dataset:
    """The end token set off by a space, as this word-level tokenizer needs it."""
    return world.dataset.map(lambda row: {"completion": row["completion"] + " <eos>"})


@pytest.mark.parametrize(("make", "settings"), ROWS.values(), ids=ROWS)
@both_routes
def test_what_is_added_is_the_auxiliary_gradient(
    route: Route, make: Make, settings: dict[str, Any], world: World, ended: Dataset
) -> None:
    assert relative_error(added(world, route, make, settings, ended), auxiliary_gradient(world, make, ended)) <= 1e-5


@both_routes
def test_a_streamed_dataset(route: Route, world: World, ended: Dataset) -> None:
    streamed = ended.to_iterable_dataset()
    settings = {"shuffle_dataset": False}
    ours = added(world, route, dense, settings, streamed)
    assert relative_error(ours, auxiliary_gradient(world, dense, ended)) <= 1e-5


@both_routes
def test_full_sequence_loss(route: Route, world: World, ended: Dataset) -> None:
    texts = ended.map(lambda row: {"text": row["prompt"] + row["completion"]}, remove_columns=["prompt", "completion"])
    ours = added(world, route, dense, {}, texts)
    reference = dense(world)
    loss_of = partial(auxiliary, features=world.features, suppress=("zh",))
    examples = []
    for row in texts:
        ids = world.tokenizer(row["text"])["input_ids"]
        examples.append((ids, [-100, *ids[1:]], row["language"]))
    blocks = list(decoder_blocks(reference))
    whole, plain = (gradients(reference, blocks, examples, loss_of, weight) for weight in (WEIGHT, 0.0))
    assert relative_error(ours, {name: whole[name] - plain[name] for name in whole}) <= 1e-5


@pytest.mark.parametrize("pure", [False, True], ids=["autocast", "pure"])
@both_routes
def test_bfloat16_stays_within_its_own_error(route: Route, pure: bool, world: World, ended: Dataset) -> None:
    """The whole gradient with SASFT strays from the exact one no further than plain SFT's own does."""

    def half(world: World) -> nn.Module:
        return world.make_model().to(torch.bfloat16) if pure else world.make_model()

    reference = dense(world)
    blocks, examples = list(decoder_blocks(reference)), examples_of(world.tokenizer, ended)
    loss_of = partial(auxiliary, features=world.features, suppress=("zh",))
    errors = {}
    for weight in (0.0, WEIGHT):
        exact = gradients(reference, blocks, examples, loss_of, weight)
        ours = moved(world, route, half, weight, {"bf16": not pure, "learning_rate": 1.0}, ended)
        errors[weight] = relative_error({name: value.float() for name, value in ours.items()}, exact)
    assert 1e-4 < errors[0.0] < 0.2, "this was not a run in bfloat16"
    assert errors[WEIGHT] < 1.5 * errors[0.0]
