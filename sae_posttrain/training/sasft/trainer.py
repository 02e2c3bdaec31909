"""SASFT as a trainer: `SFTTrainer` with a language column that packing keeps, and a config for YAML."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

try:
    from trl import SFTConfig, SFTTrainer, pack_dataset
except ImportError as error:
    raise ImportError("SASFTTrainer is a TRL trainer: pip install 'sae-posttrain[trl]'.") from error

from ...feature_set import FeatureSet
from ..cards import CardMixin, default_output_dir
from .assembly import build_engine
from .checks import check_codes, naming_bad_rows
from .engine import HookCallback
from .segments import LANGUAGE_IDS, LanguageCollator, LanguageOf, RowGroups, columns_of, group_in
from .settings import SASFTSettings

_TOKENS_CARD = (
    "SFT with unlikelihood of a language's tokens",
    ["trl", "sft", "unlikelihood", "sae-posttrain"],
    {"title": "Neural Text Generation with Unlikelihood Training", "id": "1908.04319"},
)


@dataclass
class SASFTConfig(SASFTSettings, SFTConfig):
    """`trl.SFTConfig` with the settings of SASFT's two auxiliary losses: the feature term and the token term.

    Args:
        features: feature set: a path, or a hub repository. Default: none.
        suppress: codes of the languages to keep out of answers in other languages. Default: the one language to which
            the features belong.
        sasft_weight, sasft_baseline, sasft_scale, refresh_baselines, token_weight, token_share, token_counts,
            sasft_loss_budget: as the arguments of `SASFTCallback` without the prefix `sasft_`, with the same defaults.
            `token_counts` is a path.
        language_column: dataset column with each example's language code. Default: `language`, if it exists.

    Everything else is `SFTConfig`'s.

    Raises:
        ValueError: a weight is neither a number nor `auto`.

    Example:
        >>> config = SASFTConfig("runs/sasft", features="zh.safetensors", suppress=["zh"], bf16=False)
        >>> config.sasft_scale
        'raw'

    Source: arXiv:2507.14894 for the feature term, arXiv:1908.04319 for the token term.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.parse_weights()


class SASFTTrainer(CardMixin, SFTTrainer):
    """TRL's `SFTTrainer` that penalises a language's features, or its tokens, in answers in other languages.

    Args:
        args: a `SASFTConfig` with the features or a `token_weight`, and the languages to suppress. Without it,
            `features` must be given, every setting has its default, and the output folder is `<model>-SASFT`.
        features: a feature set or its path, which replaces `args.features`.
        language_of: as in `SASFTCallback`, for datasets without a language column.

    Everything else is `SFTTrainer`'s.

    Raises:
        ValueError: SASFT cannot run with these settings, this model or this dataset. The message says what to change.

    Example:
        >>> config = SASFTConfig(output_dir="runs/sasft", suppress=["zh"], sasft_weight=5e-4)
        >>> trainer = SASFTTrainer(model, config, train_dataset=dataset, processing_class=tokenizer, features=features)
        >>> trainer.train()

    Source: arXiv:2507.14894 for the feature term, arXiv:1908.04319 for the token term.
    """

    _tag_names = ["trl", "sft", "sasft", "sae-posttrain"]  # noqa: RUF012
    _name = "SASFT"
    _paper = {  # noqa: RUF012
        "title": "SASFT: Sparse Autoencoder-guided Supervised Finetuning to Mitigate Unexpected Code-Switching in LLMs",
        "id": "2507.14894",
    }

    data_collator: Any
    _signature_columns: Any

    def __init__(
        self,
        model: Any,
        args: SASFTConfig | None = None,
        *positional: Any,
        features: FeatureSet | str | Path | None = None,
        language_of: LanguageOf | None = None,
        **kwargs: Any,
    ) -> None:
        if args is None:
            args = SASFTConfig(default_output_dir(model, "SASFT"))
        if not isinstance(args, SASFTConfig):
            raise ValueError(f"SASFTTrainer needs a SASFTConfig as args, got {type(args).__name__}.")
        self.sasft = build_engine(**args.loaded(features), language_of=language_of)
        weights = {name for name, term in self.sasft.terms.items() if term.weight}
        if not weights:
            self._use_card_of(SFTTrainer)
        elif weights == {"tokens"}:
            self._name, self._tag_names, self._paper = _TOKENS_CARD
        self._language_column: str | None = None
        self._train_set_prepared = False
        super().__init__(model, args, *positional, **kwargs)
        columns = columns_of(self.train_dataset)
        wanted = args.group_column
        if self._language_column is None and wanted in columns:
            self._language_column = wanted
        if self._language_column is None and wanted != SASFTConfig.language_column:
            setting = "label_column" if args.label_column else "language_column"
            raise ValueError(f"The training set has no column {wanted!r} ({setting}). It has {', '.join(columns)}.")
        self.sasft.attach(self, self._language_column)
        if self._language_column is not None:
            self.data_collator = LanguageCollator(self.data_collator, self._language_column, self.sasft.groups)
        self.add_callback(HookCallback(self.sasft, self))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().train(*args, **kwargs)
        finally:
            self.sasft.stop()

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        return self.sasft.compute_loss(
            self,
            super().compute_loss,
            model,
            inputs,
            return_outputs=return_outputs,
            num_items_in_batch=num_items_in_batch,
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self.sasft.log(self, logs)
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.sasft.before_save(self)
        super()._save_checkpoint(model, trial)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if self._language_column is not None and self._language_column not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, self._language_column]

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, packing: bool, formatting_func: Any, dataset_name: str
    ) -> Any:
        column = args.group_column
        # TRL prepares the training set first; an evaluation set may be called "train" too.
        is_train, self._train_set_prepared = not self._train_set_prepared and dataset_name == "train", True
        has_column = is_train and column in columns_of(dataset)
        dataset = naming_bad_rows(dataset, column if has_column else None, self.sasft.groups)
        if not (has_column and packing) or args.max_length is None:
            return super()._prepare_dataset(dataset, processing_class, args, packing, formatting_func, dataset_name)
        check_codes(dataset, column, self.sasft.groups)
        self.sasft.check_labels_met(dataset, column)
        self._language_column = LANGUAGE_IDS
        # TRL packs only input_ids and labels. So TRL prepares the rows, and they are packed here with the languages.
        rows_only = copy.copy(args)
        rows_only.max_length, rows_only.shuffle_dataset = None, False
        rows = super()._prepare_dataset(dataset, processing_class, rows_only, False, formatting_func, dataset_name)
        map_kwargs = {"num_proc": args.dataset_num_proc} if isinstance(rows, Dataset) else {}
        rows = rows.map(
            _spread_language,
            fn_kwargs={"column": column, "groups": self.sasft.groups},
            **map_kwargs,
        ).select_columns(["input_ids", "labels", LANGUAGE_IDS])
        if args.shuffle_dataset:
            rows = rows.shuffle(seed=args.seed)
        packed = pack_dataset(rows, args.max_length, args.packing_strategy, map_kwargs)
        return packed.shuffle(seed=args.seed) if args.shuffle_dataset else packed


def _spread_language(example: dict[str, Any], column: str, groups: RowGroups) -> dict[str, Any]:
    """Repeat the id of the language or label for each token, because packing keeps lists of the tokens' length.
    `groups` is an argument so that a cached `map` is computed again if the numbering changes."""
    return {LANGUAGE_IDS: [group_in(column, example.get(column), groups)] * len(example["input_ids"])}
