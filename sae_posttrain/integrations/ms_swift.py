"""SASFT in ms-swift, as a plugin file: `swift sft … --external_plugins FILE --callbacks sasft`.

`python -m sae_posttrain.integrations.ms_swift` prints this file's path. The settings are environment variables, which
ms-swift also sets from a YAML file's `ENV` and from `--model_kwargs`: SASFT_FEATURES, SASFT_SUPPRESS, SASFT_WEIGHT, …
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# ms-swift loads this file by its path, outside its package, so relative imports would fail.
from sae_posttrain.training.sasft import SASFTCallback
from sae_posttrain.training.sasft.segments import language_id, segments_of
from sae_posttrain.training.sasft.settings import PREFIX, SASFTSettings

CHANNEL = "channel"
"""The only column besides the messages that ms-swift keeps in its batches."""


@dataclass
class SwiftSettings(SASFTSettings):
    """SASFT's settings in ms-swift."""

    language_column: str = field(
        default=CHANNEL,
        metadata={
            "help": "channel: this column has each example's language code; ms-swift keeps no other column in its "
            "batches. none: the script of the answer decides."
        },
    )

    label_column: str | None = field(
        default=None,
        metadata={
            "help": "channel: for features of a concept, the column `channel` has each example's label instead of its "
            "language. The features of a suppressed label are penalised in rows with other labels."
        },
    )

    def __post_init__(self) -> None:
        if self.label_column not in (CHANNEL, None):
            raise ValueError(
                f"sasft_label_column={self.label_column!r}: ms-swift keeps no column in its batches except "
                f'{CHANNEL!r}. Rename yours with --columns \'{{"{self.label_column}": "{CHANNEL}"}}\', and set '
                f"sasft_label_column to {CHANNEL}."
            )
        if self.language_column not in (CHANNEL, "none"):
            raise ValueError(
                f"sasft_language_column={self.language_column!r}: ms-swift keeps no column in its batches except "
                f'{CHANNEL!r}. Rename yours with --columns \'{{"{self.language_column}": "{CHANNEL}"}}\', and leave '
                "sasft_language_column out."
            )


def read_settings(environment: Mapping[str, str]) -> SwiftSettings:
    """Read the settings from environment variables `SASFT_…`.

    Raises:
        ValueError: a variable is not a setting, and the message names the nearest; or a value has the wrong type.

    Example:
        >>> read_settings({"SASFT_SUPPRESS": "zh ru", "SASFT_TOKEN_WEIGHT": "100", "HOME": "/root"}).suppress
        ['zh', 'ru']
    """
    given = {name.lower(): value for name, value in environment.items() if name.lower().startswith(PREFIX)}
    return SwiftSettings.from_prefixed(given)


class SwiftSASFTCallback(SASFTCallback):
    """`SASFTCallback` for ms-swift's trainer, which makes its callbacks at the beginning of its own `__init__`.

    Args:
        settings: as `read_settings` returns them.
        trainer: ms-swift's trainer, which is not complete yet.

    Raises:
        ValueError: a setting is out of range, or SASFT does not support the trainer.
        FileNotFoundError: there is no such feature set or file of token counts.
    """

    def __init__(self, settings: SwiftSettings, trainer: Any) -> None:
        by_label = settings.label_column == CHANNEL
        reads_channel = by_label or settings.language_column == CHANNEL
        of_channels = labels_of_channels if by_label else languages_of_channels
        check_swift_trainer(trainer)
        super().__init__(**settings.loaded(), language_of=of_channels if reads_channel else None)
        if by_label:
            self._column = ""  # no column is carried: ms-swift's own collator puts the channels into the batch
        self._made_for = trainer
        self._by_label, self._reads_channel = by_label, reads_channel

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._by_label:
            dataset = rows_of(self._made_for.train_dataset)
            columns = getattr(dataset, "column_names", None)  # a stream may not know them
            if columns is not None and CHANNEL not in columns:
                raise ValueError(
                    f"The training set has no column {CHANNEL!r}, from which SASFT reads the labels. Rename yours with "
                    f'--columns \'{{"label": "{CHANNEL}"}}\'.'
                )
            self.engine.check_labels_met(dataset, CHANNEL)
        elif self._reads_channel:
            check_channels(self._made_for.train_dataset)
        self.set_trainer(self._made_for)


def create_callback(args: Any, trainer: Any) -> SwiftSASFTCallback:
    """Make the callback; ms-swift calls this for `--callbacks sasft`."""
    return SwiftSASFTCallback(read_settings(os.environ), trainer)


def check_swift_trainer(trainer: Any) -> None:
    """Check that the trainer's loss is a cross-entropy over labels.

    Raises:
        ValueError: it is not, or the trainer uses sequence parallelism; the message says what to use instead.
    """
    from swift.trainers import Seq2SeqTrainer

    if not isinstance(trainer, Seq2SeqTrainer):
        raise ValueError(
            f"SASFT does not support ms-swift's {type(trainer).__name__}, because it adds to a cross-entropy over "
            "labels. Use `swift sft` or `swift pt` with task_type causal_lm, or leave `--callbacks sasft` out."
        )
    size = trainer.template.sequence_parallel_size
    if size > 1:
        raise ValueError(
            "SASFT cannot run under sequence parallelism, because a rank sees only parts of examples. Set "
            f"--sequence_parallel_size to 1, not {size}."
        )


def check_channels(dataset: Any) -> None:
    """Check, before training, that all channels are language codes. A streamed data set is checked batch by batch.

    Raises:
        ValueError: a channel is not a language code.
    """
    dataset = rows_of(dataset)
    if hasattr(dataset, "unique") and CHANNEL in dataset.column_names:
        for channel in dataset.unique(CHANNEL):
            _code_of(channel)


def rows_of(dataset: Any) -> Any:
    """The dataset of the rows, which packed and lazily encoded datasets wrap; None if it is not found."""
    while dataset is not None and not hasattr(dataset, "column_names"):
        dataset = getattr(dataset, "dataset", None)
    return dataset


def languages_of_channels(inputs: Mapping[str, Any]) -> Sequence[str | None]:
    """The language of each segment, from a batch's `channel` of each example; None if there is no channel."""
    return _of_segments(inputs, _code_of)


def labels_of_channels(inputs: Mapping[str, Any]) -> Sequence[str | None]:
    """The label of each segment, as `languages_of_channels`, for training by label."""
    return _of_segments(inputs, lambda channel: None if channel == "" else channel)


def _of_segments(inputs: Mapping[str, Any], read: Callable[[Any], str | None]) -> Sequence[str | None]:
    segment_BS = segments_of(inputs)
    count, channels = int(segment_BS[-1, -1]) + 1, inputs.get(CHANNEL)
    if channels is None:
        return [None] * count
    codes = [read(channel) for channel in channels]
    if len(codes) == count:
        return codes
    # A row that is padded on the left has several segments.
    if len(codes) != len(segment_BS):
        raise ValueError(f"The batch has {len(codes)} channels for {count} segments in {len(segment_BS)} rows.")
    row_of = {int(number): row for row, numbers in enumerate(segment_BS.tolist()) for number in numbers}
    return [codes[row_of[number]] for number in range(count)]


def _code_of(channel: Any) -> str | None:
    try:
        language_id(channel)
    except ValueError as error:
        raise ValueError(
            f"Column {CHANNEL!r}: {error} SASFT reads the channel as the language of the example. If your channels "
            "mean something else, set SASFT_LANGUAGE_COLUMN to none; the script of the answer then decides."
        ) from error
    return channel or None


def register() -> None:
    """Make `--callbacks sasft` known to ms-swift."""
    from swift.callbacks import callbacks_map

    callbacks_map["sasft"] = create_callback
    # ms-swift puts a plugin's folder first in the import path. It has files with the names of other frameworks.
    folder = str(Path(__file__).resolve().parent)
    sys.path[:] = [entry for entry in sys.path if str(Path(entry or ".").resolve()) != folder]


if __name__ == "__main__":
    print(Path(__file__).resolve())
elif "swift" in sys.modules:  # ms-swift loads this file
    register()
