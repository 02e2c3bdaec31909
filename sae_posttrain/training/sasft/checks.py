"""Checks before training. Each raises an error for a setting, trainer, model or dataset that SASFT cannot work with."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence, Set
from itertools import islice
from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from ...residual import decoder, unwrap
from .segments import BY_LANGUAGE, LANGUAGE_IDS, OTHER_LABELS, LanguageOf, RowGroups, columns_of, group_in
from .telling import tokenizer_of
from .weight import AUTO, Weight

logger = logging.getLogger(__name__)

PEEKED_ROWS = 256
"""Number of rows of a stream that are checked before training starts."""


def weight_of(name: str, setting: Weight, published: str = "") -> float:
    """The initial weight of a term. For `auto` it is 1 until the finder sets it when training begins.

    Args:
        name: name of the setting, for the message.
        setting: the user's value.
        published: text about usual weights, which is added to the message.

    Raises:
        ValueError: neither `auto` nor a finite number of at least 0.
    """
    if setting == AUTO:
        return 1.0
    is_number = isinstance(setting, int | float) and not isinstance(setting, bool)
    if not (is_number and math.isfinite(float(setting)) and float(setting) >= 0):
        raise ValueError(f"{name}={setting!r}: expected a finite number of at least 0{published}, or 'auto'.")
    return setting


def check_budget(budget: float) -> None:
    """Refuse a budget that is not a share of the cross-entropy."""
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget < 1:
        raise ValueError(
            f"loss_budget={budget!r}: expected a share of the cross-entropy above 0 and below 1; 0.01 is 1%."
        )


def check_share(share: float) -> None:
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(f"token_share={share!r}: expected a share above 0 and at most 1, such as 0.25.")


def check_settings(baseline: str, scale: str, refresh_baselines: int) -> None:
    if baseline not in ("mean", "zero"):
        raise ValueError(f"baseline={baseline!r}: expected 'mean' or 'zero'.")
    if scale not in ("raw", "typical"):
        raise ValueError(f"scale={scale!r}: expected 'raw' or 'typical'.")
    if isinstance(refresh_baselines, bool) or not isinstance(refresh_baselines, int) or refresh_baselines < 0:
        raise ValueError(f"refresh_baselines={refresh_baselines!r}: expected a number of steps, or 0 for never.")
    if refresh_baselines and baseline == "zero":
        raise ValueError("refresh_baselines has no effect with baseline='zero'. Leave one of the two out.")


def check_trainer(trainer: Trainer) -> None:
    """Refuse parallelism in which a process does not see whole examples."""
    if trainer.args.n_gpu > 1:
        raise ValueError(
            "Several GPUs are visible to one process, so the trainer would split each batch over copies of the model. "
            "Start with `accelerate launch`, or make one GPU visible (CUDA_VISIBLE_DEVICES)."
        )
    if trainer.get_cp_size() > 1 or trainer.get_sp_size() > 1:
        raise ValueError(
            "SASFT cannot run under context or sequence parallelism, because each rank sees only parts of segments. "
            "Turn it off; FSDP2 and ZeRO are supported."
        )


def shows_segments(trainer: Trainer) -> bool:
    """Whether the batches show where one example ends and the next begins."""
    packing = getattr(trainer.args, "packing", False)
    return not (packing and getattr(trainer.args, "packing_strategy", None) == "wrapped")


def check_languages(trainer: Trainer, column: str | None, language_of: LanguageOf | None, weight: float) -> None:
    """Refuse batches whose languages cannot be found. With weight 0, warn instead and continue as plain SFT.

    Args:
        trainer: the trainer.
        column: name of the dataset's language column, if there is one.
        language_of: as in `SASFTCallback`.
        weight: the largest weight of an auxiliary loss.
    """
    if column is None and not shows_segments(trainer):
        if weight > 0:
            raise ValueError(
                "packing_strategy='wrapped' leaves no boundary between examples, so no segment's language can be "
                "found. Use packing_strategy='bfd', or SASFTTrainer with a language column, which it packs too."
            )
        logger.warning(
            "packing_strategy='wrapped' leaves no boundary between examples, so no segment's language can be found. "
            "The weight is 0, so the run continues as plain SFT, and its log has no SASFT metrics."
        )
    if tokenizer_of(trainer) is None and column is None and language_of is None:
        raise ValueError(
            "The languages of the samples cannot be found: the trainer has no processing_class, and finding them by "
            "script needs its vocabulary. Pass one to the trainer, add a `language` column, or pass language_of."
        )


def check_gradient(model: nn.Module, layer: int) -> None:
    """Refuse a model without trainable parameters up to the layer, because the auxiliary gradient would be 0."""
    text = decoder(model)
    above = [*text.layers[layer + 1 :], getattr(text, "norm", None), unwrap(model).get_output_embeddings()]
    not_feeding = {id(p) for module in above if module is not None for p in module.parameters()}
    not_feeding -= {id(p) for p in text.get_input_embeddings().parameters()}  # tied to the head
    if not any(p.requires_grad and id(p) not in not_feeding for p in model.parameters()):
        raise ValueError(
            f"Every trainable parameter sits above layer {layer}, whose features are penalised, so the auxiliary loss "
            "would have no effect. Unfreeze layers up to it (LoRA: layers_to_transform), or discover features in later "
            "layers."
        )


def check_residual(residual_BSD: Tensor, layer: int) -> None:
    """Refuse a forward without a gradient through the layer, which `check_gradient` cannot detect in advance."""
    if not residual_BSD.requires_grad:
        raise RuntimeError(
            f"No gradient goes back through layer {layer}, so its auxiliary loss would have no effect. All parameters "
            "up to it were frozen after SASFT was attached. Leave some of them trainable, or set the weight to 0."
        )


def check_captured(missing: Sequence[int], without_gradient: Set[int]) -> None:
    """Refuse a forward in which a layer's residual was not read, or was read without a gradient.

    Args:
        missing: the layers whose residual was not read.
        without_gradient: the layers that ran without a gradient.
    """
    if not missing:
        return
    ran = (
        " They did run, but without a gradient. If the framework has its own gradient checkpointing, set "
        'gradient_checkpointing_kwargs={"use_reentrant": False}, or use the checkpointing of transformers.'
    )
    raise RuntimeError(
        f"The residuals of layers {list(missing)} were not captured. Attach SASFT before the model's first compiled "
        "forward, enable gradient checkpointing before training starts, and train the model that the trainer was made "
        f"with, not a copy.{ran if without_gradient >= set(missing) else ''}"
    )


def check_data(dataset: Any, column: str | None, groups: RowGroups = BY_LANGUAGE) -> None:
    """Refuse a training set in which no token has a label, or with invalid languages."""
    if dataset is not None:
        check_labels(dataset)
        check_codes(dataset, column, groups)


def check_labels(dataset: Any) -> None:
    if isinstance(dataset, list | tuple):
        rows = [row["labels"] for row in dataset] if all(_has_labels(row) for row in dataset) else []
    else:
        names = getattr(dataset, "column_names", None)
        rows = dataset["labels"] if names and "labels" in names and hasattr(dataset, "__len__") else []
    if len(rows) and not any(label != -100 for labels in rows for label in labels):
        raise ValueError(
            "No token of the training set has a label: every label is -100, so nothing can be learned or penalised. "
            "Check the completion mask or the assistant mask."
        )


def _has_labels(row: Any) -> bool:
    return isinstance(row, Mapping) and "labels" in row


def check_labels_met(
    dataset: Any, column: str | None, groups: RowGroups, penalised: Set[str], suppress: Sequence[str]
) -> None:
    """Refuse a dataset, if its labels can be listed, none of whose labels is penalised.

    Args:
        dataset: the training set.
        column: its column of labels.
        groups: the labels that the feature set knows.
        penalised: those in which some feature is penalised.
        suppress: the suppressed labels, which are spared in their own rows.

    Raises:
        ValueError: no label is penalised.
    """
    if column in (None, LANGUAGE_IDS) or not hasattr(dataset, "unique") or column not in columns_of(dataset):
        return
    found = sorted(label for label in dataset.unique(column) if label)
    if any(groups.names[groups.id_of(label)] in penalised for label in found):
        return
    known = ", ".join(repr(name) for name in groups.names if name != OTHER_LABELS)
    holds = ", ".join(map(repr, found[:10])) or "no label"
    raise ValueError(
        f"No row of the training set would be penalised. Column {column!r} holds {holds}; the feature set has "
        f"baselines for {known}, and rows of {' or '.join(map(repr, suppress))} are spared. Rename the labels, or give "
        "them to `discover contrast` as --name and --negative-name. With baseline 'zero', every other label is "
        "penalised."
    )


def check_codes(dataset: Any, column: str | None, groups: RowGroups = BY_LANGUAGE) -> None:
    """Refuse a language column with a value that is not a language. Of a stream, `PEEKED_ROWS` rows are checked."""
    if column is None:
        return
    if not hasattr(dataset, "unique"):
        rows = dataset if isinstance(dataset, list | tuple) else ()  # other types may encode a row at each access
        for number, row in enumerate(islice(dataset, PEEKED_ROWS) if hasattr(dataset, "map") else rows, start=1):
            if column != LANGUAGE_IDS:
                _check_row(row, column, number, groups)
        return
    if column == LANGUAGE_IDS:
        return
    kind = dataset.features[column]
    if getattr(kind, "dtype", None) not in ("string", "large_string", "string_view", "null"):
        what = "language code" if groups.are_languages else "label"
        raise ValueError(
            f"Column {column!r} holds {kind}; expected strings, one {what} per row. Convert it, or rename it if it is "
            "about something else."
        )
    for code in dataset.unique(column):
        try:
            groups.id_of(code)
        except ValueError:
            _check_row({column: code}, column, list(dataset[column]).index(code) + 1, groups)


def naming_bad_rows(dataset: Any, column: str | None, groups: RowGroups = BY_LANGUAGE) -> Any:
    """Return the dataset. For a stream, errors about values that are not languages will name the row."""
    if column is None or hasattr(dataset, "unique") or not hasattr(dataset, "map"):
        return dataset
    known = dataset.num_shards == 1  # each worker counts the rows of its own shards
    how = {"column": column, "numbered": known, "groups": groups}
    return dataset.map(_checked, with_indices=True, features=dataset.features, fn_kwargs=how)


def _checked(row: dict[str, Any], index: int, column: str, numbered: bool, groups: RowGroups) -> dict[str, Any]:
    _check_row(row, column, index + 1 if numbered else None, groups)
    return row


def _check_row(row: Mapping[str, Any], column: str, number: int | None, groups: RowGroups) -> None:
    try:
        group_in(column, row.get(column), groups)
    except ValueError as error:
        said = next((text for text in row.values() if isinstance(text, str) and text != row.get(column)), "")
        where = "Some row" if number is None else f"Row {number}"
        raise ValueError(f"{where} of the training set{f' ({said[:40]!r})' if said else ''}: {error}") from error
