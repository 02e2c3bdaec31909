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
from .segments import LanguageCollator, LanguageOf, columns_of
from .weight import LOSS_BUDGET, Weight

LANGUAGE_COLUMN = "language"


class SASFTCallback(HookCallback):
    """Adds SASFT's auxiliary losses to an unmodified `SFTTrainer`.

    There are two, and either may be used alone. The feature term (`features`, `weight`) is the published one. The token
    term (`token_weight`) is unlikelihood of the suppressed language's tokens, and needs no feature set.

    >>> trainer.add_callback(SASFTCallback(features, suppress="zh", weight=5e-4).set_trainer(trainer))
    >>> trainer.add_callback(SASFTCallback(suppress="zh", token_weight=100).set_trainer(trainer))

    A segment is a row, or one example of a packed row. Its language comes from the dataset's `language` column, unless
    packing drops the column (`SASFTTrainer` packs it too); else from `language_of`; else from the script of the prose
    in its labelled tokens. The script gives the one language with a baseline that is written in it, or none. Without
    features any text in Latin letters counts as English, since only the script matters then.

    Without `set_trainer` the callback finds its trainer when training begins. With a language column that
    is too late, and raises an error. The callback also cannot notice an exception in the first run then: its hooks
    stay on the model, inactive, until the next run. A callback that is removed during a run stays active until the end.

    Args:
        features: the feature set; None trains without the feature term, and `weight` then has no meaning.
        suppress: language or languages to keep out of answers in other languages. Segments in these languages are not
            penalised.
        weight: weight of the feature term (lambda in the paper). 0 measures and logs without changing the run in any
            bit. `"auto"` finds the weight during training, as large as `loss_budget` allows.
        baseline: `mean` compares with each language's mean pre-activation on the base model, `zero` with 0.
        scale: `raw` as published, in units of the model's residual; `typical` divides each feature by its typical
            activation, so that a weight carries over between models.
        language_of: a function of the batch's inputs that gives one code, or None, per segment: a row, or a stretch
            of a packed row from one `position_ids == 0` to the next.
        refresh_baselines: measure the baselines anew every so many optimizer steps, on the training batches, and log
            how far they drifted; 0 keeps the base model's, as published.
        token_weight: weight of the token term, a number or `"auto"`; 0 measures and logs without changing the run in
            any bit, None trains without the term.
        token_share: share of the penalised positions for which the token term is computed, above 0 and up to 1. They
            are drawn at random for each batch, and weighted so that the expected loss is the same. The cost falls in
            proportion.
        token_counts: occurrences of each token by language, from `count_tokens`. They are needed for languages of one
            script, such as de and en; without them such answers are not penalised.
        loss_budget: increase of the cross-entropy that all terms with weight `"auto"` may cause together, as a share of
            the cross-entropy and by the run's own estimate. 0.01 is 1%.

    Raises:
        ValueError: a setting out of range, an unknown code, a language for which there is no feature, or neither
            features nor a `token_weight`.
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
        )
        super().__init__(engine)

    def set_trainer(self, trainer: Trainer) -> SASFTCallback:
        """Check the trainer, and wrap its loss, log and checkpoints. Returns the callback.

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
        column = LANGUAGE_COLUMN if LANGUAGE_COLUMN in columns_of(trainer.train_dataset) else None
        trainer.train_dataset = naming_bad_rows(trainer.train_dataset, column)
        engine.attach(trainer, column)
        self.trainer = trainer
        if hasattr(trainer, "sasft"):
            return self  # this trainer's methods are still wrapped from an earlier call
        if column is not None or _is_unknown_stream(trainer.train_dataset):
            _carry(trainer, LANGUAGE_COLUMN)
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
                engine.stop()  # callbacks are not told of an exception

        # An instance attribute hides the method of the class, and the trainer looks both up by name.
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
            if is_new and LANGUAGE_COLUMN in columns_of(trainer.train_dataset):
                raise ValueError(
                    f"The dataset has a {LANGUAGE_COLUMN!r} column, and its batches are already laid out without it: "
                    "call callback.set_trainer(trainer) before trainer.train()."
                )
            self.set_trainer(trainer)
        super().on_train_begin(args, state, control, **kwargs)


def _is_unknown_stream(dataset: Any) -> bool:
    """Whether the columns are unknown before the first batch, as in a stream that is not from `datasets`."""
    return isinstance(dataset, IterableDataset) and not hasattr(dataset, "column_names")


def _carry(trainer: Trainer, column: str) -> None:
    """Let the column through to the collator, which turns it into part of the batch."""
    trainer._set_signature_columns_if_needed()
    trainer._signature_columns = [*trainer._signature_columns, column]
    trainer.data_collator = LanguageCollator(trainer.data_collator, column)
