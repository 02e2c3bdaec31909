"""SASFT as a trainer: `SFTTrainer` with a language column that survives packing, and a config for YAML."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, field
from typing import Any, Literal

from datasets import Dataset

try:
    from trl import SFTConfig, SFTTrainer, pack_dataset
except ImportError as error:
    raise ImportError("SASFTTrainer is a TRL trainer: pip install 'sae-posttrain[trl]'.") from error

from ...feature_set import FeatureSet
from ...token_counts import TokenCounts
from ..cards import CardMixin, default_output_dir
from .assembly import build_engine
from .checks import check_codes, naming_bad_rows
from .engine import HookCallback
from .segments import CODES, LANGUAGE_IDS, LanguageCollator, LanguageOf, columns_of, language_id, language_in
from .weight import LOSS_BUDGET, parse_weight

logger = logging.getLogger(__name__)


_TOKENS_CARD = (
    "SFT with unlikelihood of a language's tokens",
    ["trl", "sft", "unlikelihood", "sae-posttrain"],
    {"title": "Neural Text Generation with Unlikelihood Training", "id": "1908.04319"},
)


@dataclass
class SASFTConfig(SFTConfig):
    """`trl.SFTConfig` with the settings of SASFT's two auxiliary losses: the feature term and the token term."""

    features: str | None = field(
        default=None, metadata={"help": "Feature set: a .safetensors file, or a hub repository that holds one."}
    )
    suppress: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Codes of the languages to keep out of answers in other languages: zh ru. May be left out if the "
            "features stand for one language only."
        },
    )
    # transformers reads a union with a text and None as a text, which is what `auto` needs on a command line.
    sasft_weight: float | str | None = field(
        default=5e-4,
        metadata={
            "help": "Weight of the feature term (lambda in the paper). 0 measures without changing the run; auto finds "
            "the weight during training, as large as sasft_loss_budget allows."
        },
    )
    sasft_loss_budget: float = field(
        default=LOSS_BUDGET,
        metadata={
            "help": "Increase of the cross-entropy that all terms with weight auto may cause together, as a share "
            "of the cross-entropy (0.01: one per cent) and by the run's own estimate."
        },
    )
    sasft_baseline: Literal["mean", "zero"] = field(
        default="mean", metadata={"help": "What a pre-activation is compared with: the base model's mean, or zero."}
    )
    sasft_scale: Literal["raw", "typical"] = field(
        default="raw", metadata={"help": "raw, as published; or each feature in units of its typical activation."}
    )
    sasft_refresh_baselines: int = field(
        default=0,
        metadata={
            "help": "Number of steps after which the baselines are measured again, on the training batches; 0: never."
        },
    )
    token_weight: float | str | None = field(
        default=None,
        metadata={
            "help": "Weight of the token term: unlikelihood of the suppressed language's tokens, which needs no "
            "features. 0 measures without changing anything; auto finds the weight as for sasft_weight; without a "
            "value there is "
            "no token term."
        },
    )
    token_share: float = field(
        default=1.0,
        metadata={
            "help": "Share of the positions, drawn at random, for which the token term is computed, such as 0.25."
        },
    )
    token_counts: str | None = field(
        default=None,
        metadata={
            "help": "File of token counts, for languages that share a script; `sae-posttrain discover tokens` "
            "writes it."
        },
    )
    language_column: str = field(
        default="language",
        metadata={
            "help": "Dataset column with each example's language code. Without it, the script of the answer decides."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sasft_weight = parse_weight("sasft_weight", self.sasft_weight)
        if self.token_weight is not None:
            self.token_weight = parse_weight("token_weight", self.token_weight)


class SASFTTrainer(CardMixin, SFTTrainer):
    """`trl.SFTTrainer` that penalises a language's features, or its tokens, in answers in other languages.

    Args:
        args: a `SASFTConfig` with the features or a `token_weight`, and the languages to suppress. Without it,
            `features` must be given, and every setting has its default; the output folder is `<model>-SASFT`.
        features: a feature set, instead of `args.features`.
        language_of: as in `SASFTCallback`, for datasets without a language column.

    Everything else is `SFTTrainer`'s. Source: arXiv:2507.14894; for the token term arXiv:1908.04319.
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
        features: FeatureSet | None = None,
        language_of: LanguageOf | None = None,
        **kwargs: Any,
    ) -> None:
        if args is None:
            args = SASFTConfig(default_output_dir(model, "SASFT"))
        if not isinstance(args, SASFTConfig):
            raise ValueError(f"SASFTTrainer needs a SASFTConfig as args, not {type(args).__name__}.")
        features = features if features is not None else _load(args)
        self.sasft = build_engine(
            features,
            args.suppress or (_only_target(features) if features is not None else ()),
            parse_weight("sasft_weight", args.sasft_weight),
            loss_budget=args.sasft_loss_budget,
            baseline=args.sasft_baseline,
            scale=args.sasft_scale,
            language_of=language_of,
            refresh_baselines=args.sasft_refresh_baselines,
            token_weight=None if args.token_weight is None else parse_weight("token_weight", args.token_weight),
            token_share=args.token_share,
            token_counts=TokenCounts.load(args.token_counts) if args.token_counts is not None else None,
        )
        weights = {name for name, term in self.sasft.terms.items() if term.weight}
        if not weights:
            self._use_card_of(SFTTrainer)
        elif weights == {"tokens"}:
            self._name, self._tag_names, self._paper = _TOKENS_CARD
        self._language_column: str | None = None
        self._train_set_prepared = False
        super().__init__(model, args, *positional, **kwargs)
        columns = columns_of(self.train_dataset)
        if self._language_column is None and args.language_column in columns:
            self._language_column = args.language_column
        if self._language_column is None and args.language_column != SASFTConfig.language_column:
            raise ValueError(
                f"The training set has no column {args.language_column!r} (language_column), only {', '.join(columns)}."
            )
        self.sasft.attach(self, self._language_column)
        if self._language_column is not None:
            self.data_collator = LanguageCollator(self.data_collator, self._language_column)
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
        column = args.language_column
        # TRL prepares the training set first; an evaluation set may be called "train" too.
        is_train, self._train_set_prepared = not self._train_set_prepared and dataset_name == "train", True
        has_column = is_train and column in columns_of(dataset)
        dataset = naming_bad_rows(dataset, column if has_column else None)
        if not (has_column and packing) or args.max_length is None:
            return super()._prepare_dataset(dataset, processing_class, args, packing, formatting_func, dataset_name)
        check_codes(dataset, column)
        self._language_column = LANGUAGE_IDS
        # TRL packs input_ids and labels only; so it prepares the rows, and they are packed here with one list more.
        rows_only = copy.copy(args)
        rows_only.max_length, rows_only.shuffle_dataset = None, False
        rows = super()._prepare_dataset(dataset, processing_class, rows_only, False, formatting_func, dataset_name)
        map_kwargs = {"num_proc": args.dataset_num_proc} if isinstance(rows, Dataset) else {}
        rows = rows.map(
            _spread_language,
            fn_kwargs={"column": column, "ids": {code: language_id(code) for code in CODES}},
            **map_kwargs,
        ).select_columns(["input_ids", "labels", LANGUAGE_IDS])
        if args.shuffle_dataset:
            rows = rows.shuffle(seed=args.seed)
        packed = pack_dataset(rows, args.max_length, args.packing_strategy, map_kwargs)
        return packed.shuffle(seed=args.seed) if args.shuffle_dataset else packed


def _load(args: SASFTConfig) -> FeatureSet | None:
    """The feature set that the settings name; a run of weight 0 is plain SFT without one.

    Raises:
        FileNotFoundError: there is none, and the weight is not 0.
    """
    if args.features is None:
        return None
    try:
        return FeatureSet.load(args.features)
    except FileNotFoundError as error:
        if args.sasft_weight:
            raise
        logger.warning("%s This run of sasft_weight 0 trains without it, and does not measure the features.", error)
        return None


def _only_target(features: FeatureSet) -> list[str]:
    """What to suppress where nothing says it: the language that all of the features stand for.

    Raises:
        ValueError: they stand for several.
    """
    if len(features.targets) != 1:
        raise ValueError(
            f"suppress is empty, and the features stand for {', '.join(features.targets) or 'no language'}: name the "
            "language or languages to keep out, such as SASFTConfig(suppress=['zh'])."
        )
    return list(features.targets)


def _spread_language(example: dict[str, Any], column: str, ids: dict[str, int]) -> dict[str, Any]:
    """One language id per token: packing carries lists of the tokens' length. `ids` makes a cached map notice when
    the numbering of languages changes."""
    code = example.get(column)
    row = ids[code] if isinstance(code, str) and code in ids else language_in(column, code)
    return {LANGUAGE_IDS: [row] * len(example["input_ids"])}
