"""How exact the gradient with SASFT is, for any way of running a trainer.

Two runs of one step from the same weights, with the weight and with zero, differ by the auxiliary gradient alone; so
the hand-written reference needs no copy of what TRL does for each of its losses. Zero weight is plain SFT bit for bit,
which `test_runs.py` shows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from sae_posttrain.residual import decoder_blocks

from .reference import auxiliary, gradients, token_auxiliary
from .world import Route, World

WEIGHT = 0.7
TOKEN_WEIGHT = 1.3
Make = Callable[[World], nn.Module]
Example = tuple[list[int], list[int], str | list[str]]
"""Token ids, labels, and the language, of all tokens or of each."""
Gradient = dict[str, Tensor]


def dense(world: World) -> nn.Module:
    return world.make_model()


def adapted(**settings: Any) -> Make:
    """LoRA with random B matrices: with the usual zeros half of the gradients would vanish."""

    def make(world: World) -> nn.Module:
        model = world.make_model()
        torch.manual_seed(5)
        return get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, **settings))

    return make


def answers(world: World) -> tuple[Any, list[Example]]:
    """The dataset of prompts and completions, and what it should become: labels on the completions."""
    # TRL would append the end token without a space, which this word-level tokenizer would not split.
    dataset = world.dataset.map(lambda row: {"completion": row["completion"] + " <eos>"})
    examples = []
    for row in dataset:
        prompt = world.tokenizer(row["prompt"])["input_ids"]
        ids = world.tokenizer(row["prompt"] + row["completion"])["input_ids"]
        examples.append((ids, [-100] * len(prompt) + ids[len(prompt) :], row["language"]))
    return dataset, examples


def texts(world: World) -> tuple[Any, list[Example]]:
    """Plain text: every token but the first has a label."""
    dataset, examples = answers(world)
    dataset = dataset.map(lambda row: {"text": row["prompt"] + row["completion"]})
    return dataset.select_columns(["text", "language"]), [(ids, [-100, *ids[1:]], code) for ids, _, code in examples]


def streamed(world: World) -> tuple[Any, list[Example]]:
    dataset, examples = answers(world)
    return dataset.to_iterable_dataset(), examples


CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }} <eos>{% endgeneration %} "
    "{% else %}{{ message.content }} <eos> {% endif %}{% endfor %}"
)


def chats(world: World) -> tuple[Any, list[Example]]:
    """Two turns: the answers have labels, and the end of each, and the questions have none."""
    world.tokenizer.chat_template = CHAT_TEMPLATE
    rows, examples = [], []
    for row in world.dataset:
        turns = [("user", row["prompt"]), ("assistant", row["completion"].strip())] * 2
        rows.append({"messages": [{"role": r, "content": c} for r, c in turns], "language": row["language"]})
        ids: list[int] = []
        labels: list[int] = []
        for role, content in turns:
            turn = world.tokenizer(f"{content} <eos>")["input_ids"]
            ids += turn
            labels += turn if role == "assistant" else [-100] * len(turn)
        examples.append((ids, labels, row["language"]))
    return Dataset.from_list(rows), examples


@dataclass(frozen=True)
class Row:
    """One way to train: the model, the trainer's settings, and the data with what it should become.

    `make_reference` gives the model of the reference, where it is another; `refused` the words of the refusal for a
    route by name; `slow` rows wait for `make test-all`; `broken` says why this TRL fails, with SASFT or without.
    `parts`: into how many equal parts, in the order of the rows, the trainer splits the step where each part takes the
    mean over its own tokens and the step is the mean of those; 1 where all tokens of the step share one mean.
    `counts_first`: whether the trainer counts the first token of each row, which nothing predicts, in the step.
    `louder`: by how much the terms' weights are raised where the cross-entropy's gradient is so large that its rounding
    would hide theirs: it is what both runs share, and cancels only up to rounding.
    `meant` shows of a trainer that has run that its settings were in force: two runs that both missed them would agree.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    make: Make = dense
    data: Callable[[World], tuple[Any, list[Example]]] = answers
    suppress: Sequence[str] = ("zh",)
    make_reference: Make | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    slow: bool = False
    broken: str = ""
    parts: int = 1
    counts_first: bool = False
    louder: float = 1.0
    meant: Callable[[Any], Any] = lambda trainer: True


def moved(world: World, route: Route, row: Row, weight: float, token_weight: float | None = None) -> Gradient:
    """What one step of the trainer does to every trainable weight: minus its gradient, turned round."""
    before = {name: p.detach().clone() for name, p in row.make(world).named_parameters() if p.requires_grad}
    dataset, _ = row.data(world)
    settings = {**row.settings, "token_weight": token_weight}
    trainer = world.run(route, model=row.make(world), weight=weight, suppress=row.suppress, dataset=dataset, **settings)
    trainer.train()
    assert row.meant(trainer)
    after = {name: whole(p) for name, p in trainer.model.named_parameters()}
    return {name: value - after[name] for name, value in before.items()}


def whole(parameter: Tensor) -> Tensor:
    """The value of a parameter that FSDP2 or ZeRO-3 may keep in parts; a collective call."""
    if hasattr(parameter, "full_tensor"):
        whole: Tensor = parameter.detach().full_tensor()  # type: ignore[attr-defined]
        return whole
    if hasattr(parameter, "ds_id"):
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([parameter]):
            return parameter.detach().clone()
    return parameter.detach()


def reference(world: World, row: Row, weight: float, token_weight: float = 0.0) -> Gradient:
    """The same by hand: (sum NLL + weighted auxiliaries) / labelled tokens, one example at a time, no trainer."""
    model = (row.make_reference or row.make)(world)

    def loss_of(residuals: Mapping[int, Tensor], logits: Tensor, labels: Tensor, language: Any) -> Tensor:
        features = auxiliary(residuals, labels, language, world.features, row.suppress) if weight else torch.zeros(())
        tokens = torch.zeros(())
        if token_weight:
            tokens = token_auxiliary(logits, labels, language, world.tokens, row.suppress)
        return weight * features + token_weight * tokens

    examples = row.data(world)[1]
    size = len(examples) // row.parts
    parts = [examples[start : start + size] for start in range(0, len(examples), size)]
    counts_first = row.counts_first
    each = [gradients(model, list(decoder_blocks(model)), part, loss_of, counts_first) for part in parts]
    return {name: sum(gradient[name] for gradient in each) / len(each) for name in each[0]}


def difference(whole: Gradient, plain: Gradient) -> Gradient:
    return {name: whole[name] - plain[name] for name in plain}


TERMS: Mapping[str, tuple[float, float]] = {"features": (WEIGHT, 0.0), "tokens": (0.0, TOKEN_WEIGHT)}
"""Term → the weights with which it is the only one that adds to the gradient."""

CELLS: dict[tuple[str, str], str] = {}
"""What was measured in this session: (row, column of the table) → cell."""


def record(row: str, route: Route, cell: float | str, term: str | None = None) -> None:
    """Put a cell into the table; one that holds for both terms at once, where no term is named."""
    column = {"with_callback": "callback", "with_trainer": "trainer", "with_plain": "Trainer"}[route.__name__]
    for name in TERMS if term is None else (term,):
        CELLS[row, f"{name}, {column}"] = cell if isinstance(cell, str) else f"{cell:.0e}"


def relative_error(found: Gradient, expected: Gradient) -> float:
    distance = sum((found[name] - expected[name]).square().sum() for name in expected)
    return float((distance / sum(value.square().sum() for value in expected.values())).sqrt())


def errors_of_the_addition(world: World, route: Route, row: Row) -> dict[str, float]:
    """What each term adds to the gradient, against the hand-written auxiliary gradient.

    The feature term alone and both terms at weight 0 give the other's; so either is seen with and without the other.
    """
    plain, by_hand = moved(world, route, row, 0.0, 0.0), reference(world, row, 0.0)
    errors = {}
    for term, weights in TERMS.items():
        weight, token_weight = (row.louder * one for one in weights)
        added = difference(moved(world, route, row, weight, token_weight or None), plain)
        expected = difference(reference(world, row, weight, token_weight), by_hand)
        errors[term] = relative_error(added, expected)
    return errors
