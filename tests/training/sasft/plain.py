"""SASFT on a plain `transformers.Trainer`, and trainers that other frameworks make of it; nothing here needs TRL."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)
from versions import NUM_ITEMS_COUNTS_FIRST_TOKENS

from sae_posttrain import FeatureSet, SASFTCallback

from .exactness import Example, Row, adapted, answers, texts
from .world import World


def without(model: Any, features: FeatureSet, suppress: Sequence[str], weight: Any, **kwargs: Any) -> Trainer:
    """Without SASFT. `args` may name the class of the trainer, and its collator, which is made from the tokenizer."""
    settings = kwargs.pop("args")
    cls, collator = settings.pop("trainer", Trainer), settings.pop("collator", DataCollatorForSeq2Seq)
    kwargs["data_collator"] = collator(kwargs["processing_class"])
    return cls(model, TrainingArguments(**settings), **kwargs)


def with_plain(model: Any, features: FeatureSet, suppress: Sequence[str], weight: Any, **kwargs: Any) -> Trainer:
    """`args` may have what `without` takes, and SASFT's own settings."""
    settings = kwargs["args"]
    ours = {name: settings.pop(name) for name in ("token_weight", "token_share", "language_of") if name in settings}
    trainer = without(model, features, suppress, weight, **kwargs)
    callback = SASFTCallback(features, suppress=suppress, weight=weight, **ours)
    trainer.add_callback(callback.set_trainer(trainer))
    return trainer


def tokenised(world: World) -> tuple[Any, list[Example]]:
    """The rows as tokens, labels on the completions."""
    return rows_of(answers(world)[1])


def every_token(world: World) -> tuple[Any, list[Example]]:
    """A label on every token, the first of each row too."""
    _, examples = texts(world)
    return rows_of([(ids, list(ids), code) for ids, _, code in examples])[0], examples


def rows_of(examples: list[Example]) -> tuple[Any, list[Example]]:
    rows = [{"input_ids": ids, "labels": labels, "language": code} for ids, labels, code in examples]
    return Dataset.from_list(rows), examples


def channelled(world: World) -> tuple[Any, list[Example]]:
    """A column of another name carries the languages."""
    dataset, examples = tokenised(world)
    return dataset.rename_column("language", "channel"), examples


def flattening(tokenizer: PreTrainedTokenizerFast) -> Any:
    return DataCollatorWithFlattening()


class Multipack:
    """As Axolotl's batches: each list of examples becomes a row, whose attention mask numbers the examples."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.pad = int(tokenizer.pad_token_id)

    def __call__(self, packs: list[list[dict[str, Any]]]) -> dict[str, Tensor]:
        columns: dict[str, list[Tensor]] = {"input_ids": [], "labels": [], "position_ids": [], "attention_mask": []}
        for pack in packs:
            for name in ("input_ids", "labels"):
                columns[name].append(torch.cat([torch.tensor(one[name]) for one in pack]))
            sizes = torch.tensor([len(one["input_ids"]) for one in pack])
            columns["position_ids"].append(torch.cat([torch.arange(int(size)) for size in sizes]))
            columns["attention_mask"].append((torch.arange(len(pack)) + 1).repeat_interleave(sizes))
        fill = {"input_ids": self.pad, "labels": -100, "position_ids": 0, "attention_mask": 0}
        padded = nn.utils.rnn.pad_sequence
        batch = {name: padded(rows, True, fill[name]) for name, rows in columns.items()}
        # Without flash attention the model tells packed examples by their positions, when there is no mask.
        self.mask = batch.pop("attention_mask")
        return batch


class MultipackTrainer(Trainer):
    """Gives its collator lists of examples."""

    def get_train_dataloader(self) -> Any:
        collate = self.data_collator
        self.data_collator = lambda examples: collate([examples[:3], examples[3:5], examples[5:]])
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = collate


class ChannelTrainer(Trainer):
    """As ms-swift: what its collator put into the batch for the loss alone is taken out before the forward."""

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = [*self._signature_columns, "channel"]

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        inputs.pop("channel")
        return super().compute_loss(model, inputs, *args, **kwargs)


class WithChannel:
    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.inner = DataCollatorForSeq2Seq(tokenizer)

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        channels = [example.pop("channel") for example in examples]
        return {**self.inner(examples), "channel": channels}


def language_in_channel(inputs: Mapping[str, Any]) -> Sequence[str | None]:
    return list(inputs["channel"])


class CutsLabels(Trainer):
    """As ms-swift: `logits_to_keep` are the last positions, and the labels are cut to them."""

    def _prepare_inputs(self, inputs: Any) -> Any:
        inputs = super()._prepare_inputs(inputs)
        labels = inputs["labels"]
        kept = labels.shape[1] - int((labels != -100).int().argmax(-1).min()) + 1
        return {**inputs, "labels": labels[:, -kept:], "logits_to_keep": kept}


class MasksLabels(Trainer):
    """As ms-swift with one row: `logits_to_keep` is a mask of the positions that predict a label."""

    def _prepare_inputs(self, inputs: Any) -> Any:
        inputs = super()._prepare_inputs(inputs)
        (labels,) = inputs["labels"]
        labelled = labels != -100
        cut = torch.cat([labels.new_full((1,), -100), labels[labelled]])[None]
        kept = torch.cat([labelled[1:], labelled.new_ones(1)])
        return {**inputs, "labels": cut, "logits_to_keep": kept}


class ShiftsLabels(Trainer):
    """As collators that give the loss its labels already shifted."""

    def _prepare_inputs(self, inputs: Any) -> Any:
        inputs = super()._prepare_inputs(inputs)
        shifted = inputs["labels"].roll(-1, 1)
        shifted[:, -1] = -100
        return {**inputs, "shift_labels": shifted}


class ChunkedLoss(Trainer):
    """A loss of the framework's own: from the hidden states, some positions at a time, scaled as the trainer does."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, num_items_in_batch: Any = None, **kwargs: Any) -> Any:
        labels = inputs.pop("labels")
        hidden = model.model(**inputs).last_hidden_state[:, :-1].flatten(0, 1)
        chunks = zip(hidden.split(7), labels[:, 1:].flatten().split(7), strict=True)
        loss = sum(
            cross_entropy(model.lm_head(states), targets, ignore_index=-100, reduction="sum")
            for states, targets in chunks
        )
        return loss / num_items_in_batch


class WrappedOnTheClass(Trainer):
    """As Unsloth: `compute_loss` is replaced on the class."""


def _wrap(original: Any) -> Any:
    def compute_loss(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        return original(self, model, inputs, *args, **kwargs)

    return compute_loss


WrappedOnTheClass.compute_loss = _wrap(Trainer.compute_loss)


def summed_over_items(outputs: Any, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
    logits = outputs.logits[:, :-1].flatten(0, 1)
    return cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100, reduction="sum") / num_items_in_batch


def checkpoints(trainer: Trainer) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in trainer.model.modules())


ONE_ROW = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
FOUR_STEPS = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
CHECKPOINTED = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
REENTRANT = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
FLAT = {"collator": flattening}
PACKS = {"trainer": MultipackTrainer, "collator": Multipack}
CHANNEL = {"trainer": ChannelTrainer, "collator": WithChannel, "language_of": language_in_channel}
PLAIN_ROWS: dict[str, Row] = {
    name: Row(**{"data": tokenised, **row})
    for name, row in {
        "padded": {},
        "padded, accumulation of 4": {"settings": FOUR_STEPS, "slow": True},
        "every token labelled": {"data": every_token, "counts_first": NUM_ITEMS_COUNTS_FIRST_TOKENS},
        "checkpointing": {"settings": CHECKPOINTED, "meant": checkpoints, "slow": True},
        "reentrant checkpointing": {"settings": REENTRANT, "meant": checkpoints, "slow": True},
        "reentrant checkpointing, accumulation": {"settings": {**REENTRANT, **FOUR_STEPS}, "meant": checkpoints},
        "reentrant checkpointing, LoRA": {"settings": REENTRANT, "make": adapted(), "meant": checkpoints},
        "LoRA": {"make": adapted(), "slow": True},
        "flattened rows": {"settings": FLAT, "slow": True},
        "flattened rows, reentrant checkpointing": {"settings": {**FLAT, **REENTRANT, **FOUR_STEPS}},
        "multipack (nested lists)": {"settings": PACKS},
        "language in another batch entry": {"settings": CHANNEL, "data": channelled},
        "logits_to_keep, last positions": {"settings": {"trainer": CutsLabels}, "slow": True},
        "logits_to_keep, last positions, accumulation": {"settings": {"trainer": CutsLabels, **FOUR_STEPS}},
        "logits_to_keep, mask": {"settings": {"trainer": MasksLabels, **ONE_ROW}, "slow": True},
        "logits_to_keep, mask, flattened rows": {"settings": {"trainer": MasksLabels, **FLAT, **FOUR_STEPS}},
        "shift_labels": {"settings": {"trainer": ShiftsLabels}},
        "compute_loss wrapped on the class": {
            "settings": {"trainer": WrappedOnTheClass, **FOUR_STEPS},
            "meant": lambda trainer: trainer.calls == 4,
        },
        "a chunked loss of the framework's own": {"settings": {"trainer": ChunkedLoss, **FOUR_STEPS}},
        "compute_loss_func": {"settings": {"compute_loss_func": summed_over_items, **FOUR_STEPS}, "slow": True},
        "label smoothing": {"settings": {"label_smoothing_factor": 0.1}, "slow": True},
    }.items()
}
