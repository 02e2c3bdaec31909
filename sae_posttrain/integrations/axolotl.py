"""SASFT in Axolotl, as a plugin: `plugins: [sae_posttrain.integrations.axolotl.SASFTPlugin]` and `sasft_…` keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from axolotl.integrations.base import BasePlugin
from pydantic import BaseModel, Field, create_model, model_validator

from ..training.sasft import SASFTCallback
from ..training.sasft.callback import LANGUAGE_COLUMN
from ..training.sasft.segments import columns_of
from ..training.sasft.settings import PREFIX, SASFTSettings

OTHER_LOSSES = {
    "rl": "preference training and RL have no cross-entropy over labels",
    "reward_model": "a reward model has no cross-entropy over labels",
    "process_reward_model": "a reward model has no cross-entropy over labels",
    "orpo_alpha": "ORPO adds an odds ratio over pairs of answers to the loss",
    "pretraining_dataset": "its batches do not show where one example ends and the next begins",
}
"""Axolotl's settings with which SASFT cannot run, and why."""
OTHER_PLUGINS = {
    "axolotl.integrations.kd": "distillation has a loss of its own",
    "axolotl.integrations.diffusion": "a diffusion model predicts masked tokens, not the next one",
}


class _Checked(BaseModel):
    """Checks that run before Axolotl's own checks."""

    @model_validator(mode="before")
    @classmethod
    def check_sasft(cls, data: Any) -> Any:
        """Raise an error for unknown SASFT settings, and for training that SASFT does not support."""
        if isinstance(data, Mapping):
            check_config(data)
        return data


def _settings() -> dict[str, Any]:
    """Name of each key → its type and its help, in pydantic's form. A key that is not given is None."""
    kinds, helps = get_type_hints(SASFTSettings), {one.name: one.metadata["help"] for one in fields(SASFTSettings)}
    # YAML reads `zh ru` as a text. SASFT accepts it as a list of codes.
    kinds = {name: list[str] | str if kind == list[str] else kind for name, kind in kinds.items()}
    return {
        key: (kinds[name] | None, Field(default=None, description=helps[name]))
        for key, name in SASFTSettings.prefixed().items()
    }


SASFTArgs = create_model("SASFTArgs", __base__=_Checked, __module__=__name__, **_settings())
"""SASFT's keys in Axolotl's YAML."""


class SASFTPlugin(BasePlugin):
    """Adds SASFT's auxiliary losses to Axolotl's supervised fine-tuning.

    Axolotl drops all columns when it tokenises. The plugin keeps the column of language codes, or of labels.
    """

    def __init__(self) -> None:
        super().__init__()
        self._carrier: _Carrier | None = None
        self._arguments: dict[str, Any] = {}

    def get_input_args(self) -> str:
        return f"{__name__}.SASFTArgs"

    def load_datasets(self, cfg: Any, preprocess: bool = False) -> None:
        """Keep the column in what follows: Axolotl then loads and tokenises the data sets itself."""
        settings = settings_of(cfg)
        if not preprocess:
            self._arguments = settings.loaded()  # a missing file stops the run here, before the model is loaded
        self._carrier = _Carrier(settings.group_column, carried_name(settings))
        self._carrier.install()

    def pre_model_load(self, cfg: Any) -> None:
        if self._carrier is not None:
            self._carrier.remove()

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[SASFTCallback]:
        _settle_columns(trainer, settings_of(cfg))
        return [SASFTCallback(**self._arguments).set_trainer(trainer)]


def settings_of(config: Mapping[str, Any]) -> SASFTSettings:
    """Read SASFT's settings from an Axolotl configuration.

    Raises:
        ValueError: a key begins with `sasft_` but is unknown, and the message names the nearest; or a value has the
            wrong type.
    """
    given = {key: value for key, value in config.items() if key.startswith(PREFIX) and value is not None}
    return SASFTSettings.from_prefixed(given)


def check_config(config: Mapping[str, Any]) -> None:
    """Check SASFT's settings, and that it can be used with Axolotl's settings, before anything is loaded.

    Raises:
        ValueError: a setting is unknown, or cannot be used with SASFT; the message says what to change.
    """
    settings = settings_of(config)
    settings.check_terms()
    for key, why in OTHER_LOSSES.items():
        if config.get(key):
            raise ValueError(f"SASFT cannot run with {key}: {why}. Leave {key} out, or SASFTPlugin.")
    for plugin in config.get("plugins") or ():
        for name, why in OTHER_PLUGINS.items():
            if plugin.startswith(name):
                raise ValueError(f"SASFT cannot run with the plugin {plugin}: {why}. Leave one of the two out.")
    for key in ("context_parallel_size", "sequence_parallel_degree"):
        if (config.get(key) or 1) > 1:
            raise ValueError(
                f"SASFT cannot run with {key}: {config[key]}, because a rank sees only parts of examples. Set it to 1."
            )
    if config.get("streaming") and config.get("sample_packing"):
        raise ValueError(
            "SASFT cannot run with streaming and sample_packing together: such batches do not show where one example "
            "ends and the next begins. Leave one of the two out."
        )


def carried_name(settings: SASFTSettings) -> str:
    """The name under which the column of languages or labels is carried, which is the one that the callback reads."""
    return settings.label_column or LANGUAGE_COLUMN


def _settle_columns(trainer: Any, settings: SASFTSettings) -> None:
    """Rename the training set's column to the name that the callback reads. Evaluation does not need the column.

    Raises:
        ValueError: the settings name the column, but no data set has it.
    """
    column, carried = settings.group_column, carried_name(settings)
    columns = columns_of(trainer.train_dataset)
    if column != LANGUAGE_COLUMN and carried not in columns:
        if column not in columns:  # Axolotl does not change a data set that was tokenised before
            setting, holds, leave = (
                ("sasft_label_column", "labels", "or leave the key out, and suppress languages.")
                if settings.label_column
                else (
                    *("sasft_language_column", "language codes"),
                    "or leave the key out: the script of the answer then decides.",
                )
            )
            raise ValueError(
                f"No data set has a column {column!r} ({setting}). Name the column that holds the {holds}, {leave}"
            )
        trainer.train_dataset = trainer.train_dataset.rename_column(column, carried)
    sets = trainer.eval_dataset
    if isinstance(sets, dict):
        trainer.eval_dataset = {name: _without(one, (column, carried)) for name, one in sets.items()}
    elif sets is not None:
        trainer.eval_dataset = _without(sets, (column, carried))


def _without(dataset: Any, names: Sequence[str]) -> Any:
    present = {*names} & set(columns_of(dataset))
    return dataset.remove_columns(sorted(present)) if present else dataset


class _Carrier:
    """Keeps a column when Axolotl tokenises. It is installed while the data sets are loaded.

    Args:
        column: its name in the data sets. Data sets without it are tokenised as usual.
        carried: its name afterwards.
    """

    def __init__(self, column: str, carried: str) -> None:
        self._column = column
        self._carried = carried
        self._replaced: list[tuple[Any, str, Any]] = []

    def install(self) -> None:
        # Imported here, because the command loads Axolotl's larger modules only after it has read the configuration.
        from axolotl.datasets import TokenizedPromptDataset
        from axolotl.utils.data import sft

        if self._replaced:
            return
        column, carried = self._column, self._carried
        initialise, hash_of = TokenizedPromptDataset.__init__, sft.generate_dataset_hash_from_config

        def carry(self: Any, prompt_tokenizer: Any, dataset: Any, *args: Any, **kwargs: Any) -> None:
            if column in columns_of(dataset):
                prompt_tokenizer = _CarryingStrategy(prompt_tokenizer, column, carried)
            initialise(self, prompt_tokenizer, dataset, *args, **kwargs)

        def hash_with_column(*args: Any, **kwargs: Any) -> str:
            # So that a data set that was prepared without the column is not used in place of one with it.
            return f"{hash_of(*args, **kwargs)}-{column}{'' if carried == LANGUAGE_COLUMN else '-label'}"

        self._replace(TokenizedPromptDataset, "__init__", carry)
        self._replace(sft, "generate_dataset_hash_from_config", hash_with_column)

    def remove(self) -> None:
        while self._replaced:
            setattr(*self._replaced.pop())

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        self._replaced.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)


class _CarryingStrategy:
    """Wraps a tokenising strategy of Axolotl, and also returns each row's language or label.

    A batched strategy is called row by row, because it may drop a row or split it into several.
    """

    def __init__(self, inner: Any, column: str, carried: str) -> None:
        self.inner = inner
        self.column = column
        self.carried = carried
        self.supports_batched = inner.supports_batched
        self.filter_rows = getattr(inner, "filter_rows", None)

    def tokenize_prompt(self, prompt: Mapping[str, Any]) -> dict[str, Any]:
        if not self.supports_batched:
            return {**self.inner.tokenize_prompt(prompt), self.carried: prompt[self.column]}
        found: dict[str, list[Any]] = {}
        for place, code in enumerate(prompt[self.column]):
            pieces = self.inner.tokenize_prompt({name: [values[place]] for name, values in prompt.items()})
            for name, values in pieces.items():
                found.setdefault(name, []).extend(values)
            found.setdefault(self.carried, []).extend([code] * len(pieces["input_ids"]))
        return found
