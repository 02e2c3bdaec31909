"""SASFT as a callback for an existing trainer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset
from transformers import Trainer

from ...feature_set import FeatureSet
from ...token_counts import TokenCounts
from ..calling import calling_trainer
from .assembly import build_engine
from .checks import naming_bad_rows
from .engine import HookCallback
from .loss import Baseline, Scale
from .segments import LanguageCollator, LanguageOf, RowGroups, columns_of
from .weight import LOSS_BUDGET, Weight

LANGUAGE_COLUMN = "language"


class SASFTCallback(HookCallback):
    """Adds SASFT's auxiliary losses to an unmodified `SFTTrainer`.

    There are two auxiliary losses, and either can be used alone. The feature term (`features`, `weight`) is the
    published one. The token term (`token_weight`) is unlikelihood of the suppressed language's tokens, and needs no
    feature set.

    A segment is a row, or one example of a packed row. Its language comes from the first of these sources that has one:

    1. the dataset's `language` column. Packing drops the column; only `SASFTTrainer` packs it too.
    2. `language_of`.
    3. the script of the prose in the segment's labelled tokens. The segment gets the language with a baseline that is
       written in this script, if there is exactly one. Without features, all text in Latin letters counts as English,
       because only the script matters.

    Without `set_trainer`, the callback finds its trainer when training begins. For a dataset with a language column
    this is too late, and an error is raised. Also, if the first run ends with an exception, the callback is not
    notified, and its inactive hooks stay on the model until the next run. A callback that is removed during a run stays
    active until the end of the run.

    Args:
        features: the feature set. With None there is no feature term, and `weight` has no effect.
        suppress: language or languages to keep out of answers in other languages. Segments in these languages are not
            penalised.
        weight: weight of the feature term (lambda in the paper). With 0 the term is measured and logged, and the run is
            bit-identical to plain SFT. `"auto"` finds the largest weight that `loss_budget` allows, during training.
        baseline: `mean` compares pre-activations with each language's mean in the base model, `zero` with 0.
        scale: `raw` (as published) uses the units of the model's residual. `typical` divides each feature by its
            typical activation, so that the same weight suits different models.
        language_of: function from the batch's inputs to one language code, or None, per segment. A segment is a row, or
            the part of a packed row from one `position_ids == 0` to the next.
        refresh_baselines: number of optimizer steps after which the baselines are measured again on the training
            batches. Their drift is logged. 0 keeps the base model's baselines, as published.
        token_weight: weight of the token term, a number or `"auto"`. With 0 the term is measured and logged, and the
            run is bit-identical to plain SFT. With None there is no token term.
        token_share: share of the penalised positions for which the token term is computed, above 0 and at most 1. The
            positions are drawn at random for each batch, and weighted so that the expected loss is the same. The
            computation takes less time in proportion.
        token_counts: occurrences of each token by language, from `count_tokens`. They are needed for languages that
            share a script, such as de and en. Without them, answers in these languages are not penalised.
        loss_budget: largest increase of the cross-entropy that all terms with weight `"auto"` may cause together, as a
            share of the cross-entropy, estimated during the run. 0.01 is 1%.
        label_column: for features of a concept, such as `discover contrast` finds: the dataset column that holds each
            row's label, instead of a language. The features of a suppressed label are penalised in rows with other
            labels, each compared with the baseline of its own label. `language_of` then gives labels.

    Raises:
        ValueError: a setting out of range, an unknown code, a suppressed language without a feature, or neither
            `features` nor `token_weight`.

    Example:
        >>> trainer.add_callback(SASFTCallback(features, suppress="zh", weight=5e-4).set_trainer(trainer))
        >>> other.add_callback(SASFTCallback(suppress="zh", token_weight=100).set_trainer(other))  # without an SAE

    Source: arXiv:2507.14894 for the feature term, arXiv:1908.04319 for the token term.
    """

    def __init__(
        self,
        features: FeatureSet | str | Path | None = None,
        suppress: str | Sequence[str] = (),
        weight: Weight = 5e-4,
        *,
        baseline: Baseline = "mean",
        scale: Scale = "raw",
        language_of: LanguageOf | None = None,
        refresh_baselines: int = 0,
        token_weight: Weight | None = None,
        token_share: float = 1.0,
        token_counts: TokenCounts | None = None,
        loss_budget: float = LOSS_BUDGET,
        label_column: str | None = None,
    ) -> None:
        engine = build_engine(
            features,
            suppress,
            weight,
            baseline=baseline,
            scale=scale,
            language_of=language_of,
            refresh_baselines=refresh_baselines,
            token_weight=token_weight,
            token_share=token_share,
            token_counts=token_counts,
            loss_budget=loss_budget,
            label_column=label_column,
        )
        self._column = label_column or LANGUAGE_COLUMN
        super().__init__(engine)

    def set_trainer(self, trainer: Trainer) -> SASFTCallback:
        """Check the trainer, and wrap its methods for the loss, the log and checkpoints. Returns the callback.

        Raises:
            ValueError: SASFT cannot run in this trainer; the message says what to change.
        """
        if self.trainer is trainer:
            return self
        engine = self.engine
        if getattr(trainer, "sasft", engine) is not engine:
            raise ValueError(
                "This trainer already has SASFT. To suppress several languages give one callback all of them: "
                'suppress=["zh", "ru"].'
            )
        column = self._column if self._column in columns_of(trainer.train_dataset) else None
        trainer.train_dataset = naming_bad_rows(trainer.train_dataset, column, engine.groups)
        engine.attach(trainer, column)
        self.trainer = trainer
        if hasattr(trainer, "sasft"):
            return self  # this trainer's methods are still wrapped from an earlier call
        if column is not None or _is_unknown_stream(trainer.train_dataset):
            _carry(trainer, self._column, engine.groups)
        compute_loss, log, train, save = trainer.compute_loss, trainer.log, trainer.train, trainer._save_checkpoint

        def compute_loss_with_sasft(model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            return engine.compute_loss(trainer, compute_loss, model, inputs, return_outputs=return_outputs, **kwargs)

        def log_with_sasft(logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            engine.log(trainer, logs)
            log(logs, *args, **kwargs)

        def save_with_sasft(*args: Any, **kwargs: Any) -> None:
            engine.before_save(trainer)
            save(*args, **kwargs)

        @wraps(train)
        def train_with_sasft(*args: Any, **kwargs: Any) -> Any:
            try:
                return train(*args, **kwargs)
            finally:
                engine.stop()  # callbacks are not notified of an exception

        # An instance attribute hides the class's method of the same name, so the trainer calls the wrapped methods.
        trainer.compute_loss, trainer.log, trainer.train = compute_loss_with_sasft, log_with_sasft, train_with_sasft
        trainer._save_checkpoint = save_with_sasft
        trainer.sasft = engine
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = calling_trainer() or self.trainer
        if trainer is None:
            raise ValueError("SASFTCallback found no trainer: call .set_trainer(trainer) before trainer.train().")
        if trainer is not self.trainer:
            is_new = not hasattr(trainer, "sasft")
            if is_new and self._column in columns_of(trainer.train_dataset):
                raise ValueError(
                    f"The dataset has a {self._column!r} column, and its batches are already laid out without it: "
                    "call callback.set_trainer(trainer) before trainer.train()."
                )
            self.set_trainer(trainer)
        super().on_train_begin(args, state, control, **kwargs)


def _is_unknown_stream(dataset: Any) -> bool:
    """Whether the columns are unknown before the first batch, as in a stream that is not a `datasets` dataset."""
    return isinstance(dataset, IterableDataset) and not hasattr(dataset, "column_names")


def _carry(trainer: Trainer, column: str, groups: RowGroups) -> None:
    """Keep the column until the collator, which adds it to the batch."""
    trainer._set_signature_columns_if_needed()
    trainer._signature_columns = [*trainer._signature_columns, column]
    trainer.data_collator = LanguageCollator(trainer.data_collator, column, groups)
