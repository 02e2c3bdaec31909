"""Code that the commands `sft` and `grpo` share: they read settings and data, train, and save."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from .processes import shares_work

_FILE_KINDS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    what: str,
    run: Any,
    settings: Mapping[str, str],
) -> None:
    """Add a command whose settings are read by TRL's parser.

    Args:
        commands: the parsers of all commands.
        name: the command's name.
        what: its help.
        run: the function that runs it.
        settings: name in the library's messages → the command's setting of the same meaning.
    """
    # TRL's parser reads the arguments, and prints all settings for --help.
    parser = commands.add_parser(name, help=f"{what}: --config FILE [--any_trl_setting …]", add_help=False)
    parser.set_defaults(run=run, passes_rest=True, settings=settings)
    shares_work(parser)


def parse(parser: Any, arguments: list[str]) -> tuple[Any, ...]:
    """Read the command line and the YAML file into the parser's dataclasses.

    Raises:
        ValueError: no dataclass has such a key; the message names the nearest key.
    """
    *settings, from_file, from_line = parser.parse_args_and_config(
        arguments, return_remaining_strings=True, separate_remaining_strings=True
    )
    unknown = [item[2:] for item in [*from_file[::2], *from_line] if item.startswith("--")]
    if unknown or from_line:
        known = [field.name for values in settings for field in fields(values)]
        nearest = difflib.get_close_matches(unknown[0], known, n=1) if unknown else []
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(f"Unknown setting {unknown[0] if unknown else from_line[0]}.{hint}")
    return tuple(settings)


def inputs_of(script: Any, training: Any, model: Any) -> dict[str, Any]:
    """The arguments of every trainer, from TRL's ScriptArguments, the trainer's configuration and ModelConfig."""
    from trl import get_peft_config, get_quantization_config

    if not script.dataset_name:
        raise ValueError("No dataset: set dataset_name to a file, a folder or a hub id.")
    if not model.model_name_or_path:
        raise ValueError("No model: set model_name_or_path to a folder or a hub id.")
    training.model_init_kwargs = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(training.model_init_kwargs or {}),
    }
    dataset = load_dataset(script)
    evaluates = training.eval_strategy != "no"
    return {
        "model": model.model_name_or_path,
        "args": training,
        "train_dataset": split_of(dataset, script.dataset_train_split, "dataset_train_split"),
        "eval_dataset": split_of(dataset, script.dataset_test_split, "dataset_test_split") if evaluates else None,
        "quantization_config": get_quantization_config(model),
        "peft_config": get_peft_config(model),
    }


def load_dataset(script: Any) -> Any:
    """Load a local file (.json, .jsonl, .csv or .parquet, also .gz), a folder, or a hub dataset.

    Raises:
        FileNotFoundError: the name has the ending of a file, but there is no such file.
    """
    import datasets

    path = Path(script.dataset_name)
    kind = next((_FILE_KINDS[suffix] for suffix in path.suffixes if suffix in _FILE_KINDS), None)
    if kind is not None:
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}. Set dataset_name to a file, a folder or a hub id.")
        return datasets.load_dataset(kind, data_files=str(path), streaming=script.dataset_streaming)
    return datasets.load_dataset(script.dataset_name, name=script.dataset_config, streaming=script.dataset_streaming)


def split_of(dataset: Any, name: str, setting: str) -> Any:
    if name not in dataset:
        raise ValueError(f"The dataset has no split {name!r}, only {', '.join(dataset)}. Set {setting} to one of them.")
    return dataset[name]


def train_and_save(trainer: Any, script: Any) -> None:
    training = trainer.args
    trainer.train(resume_from_checkpoint=checkpoint_of(training.resume_from_checkpoint))
    trainer.save_model(training.output_dir)
    trainer.save_state()  # the log of the run, which is otherwise only written with a checkpoint
    trainer.accelerator.print(f"Saved the model to {training.output_dir}")
    if training.push_to_hub:
        trainer.push_to_hub(dataset_name=script.dataset_name)
    # If its threads are still working when it is destroyed, gloo can deadlock on the interpreter's lock (torch 2.13).
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


def checkpoint_of(setting: str | bool | None) -> str | bool | None:
    """The checkpoint to resume from. `true`, as text on the command line or as a YAML value, is the last one."""
    return {"true": True, "false": False}.get(str(setting).lower(), setting)
