"""SASFT in LLaMA-Factory: `python -m sae_posttrain.integrations.llamafactory config.yaml`, with `sasft_…` keys.

The command reads the same file as `llamafactory-cli train`, removes SASFT's keys, and starts the same training. For
several GPUs, start it with torchrun, as LLaMA-Factory does:

    torchrun --nproc-per-node 8 -m sae_posttrain.integrations.llamafactory config.yaml
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..training.sasft import SASFTCallback
from ..training.sasft.settings import PREFIX, SASFTSettings

STAGE = "sft"
OTHER_TRAINERS = {
    "use_ray": "Ray starts the training in other processes, which callbacks do not reach",
    "use_mca": "Megatron has a trainer of its own",
    "use_hyper_parallel": "HyperParallel has a trainer of its own",
    "use_kt": "KTransformers computes the experts outside the model's blocks",
    "use_asft_loss": "its loss is the mean of each batch, whatever the number of tokens in the step",
    "use_unsloth_gc": "Unsloth's checkpointing computes the blocks without a gradient",
    "mixture_of_depths": "blocks that skip tokens have no residual for each token",
}
"""LLaMA-Factory's settings with which SASFT cannot run, and why."""


def split_config(config: Mapping[str, Any]) -> tuple[SASFTSettings, dict[str, Any]]:
    """Split a configuration into SASFT's settings and LLaMA-Factory's.

    Args:
        config: all keys of the file and of the command line.

    Returns:
        SASFT's settings, and the other keys.

    Raises:
        ValueError: a key begins with `sasft_` but is unknown, and the message names the nearest; a value has the wrong
            type; or SASFT does not support this training. The message says what to change.

    Example:
        >>> settings, rest = split_config({"stage": "sft", "sasft_suppress": "zh", "sasft_token_weight": 100})
        >>> settings.suppress, rest
        (['zh'], {'stage': 'sft'})
    """
    ours = {key: value for key, value in config.items() if key.startswith(PREFIX)}
    rest = {key: value for key, value in config.items() if key not in ours}
    settings = SASFTSettings.from_prefixed(ours)
    settings.check_terms()
    if "sasft_language_column" in ours:
        raise ValueError(
            "LLaMA-Factory drops the language column when it tokenises. Leave sasft_language_column out; the language "
            "is then found from the script of the answer."
        )
    if settings.label_column is not None:
        raise ValueError(
            "LLaMA-Factory drops the column of labels when it tokenises, and nothing else tells an answer's label. "
            "Train by label with TRL (`sae-posttrain sft`), Axolotl or ms-swift, or leave sasft_label_column out."
        )
    _check_training(rest)
    return settings, rest


def _check_training(config: Mapping[str, Any]) -> None:
    stage = config.get("stage", STAGE)
    if stage != STAGE:
        raise ValueError(
            f"SASFT cannot run with stage: {stage}, because it adds to a cross-entropy over the answers' labels. Use "
            f"stage: {STAGE}, or run llamafactory-cli train without SASFT."
        )
    for key, why in OTHER_TRAINERS.items():
        variable = key.upper()  # LLaMA-Factory reads some of these from the environment
        if config.get(key) or os.environ.get(variable, "0").lower() in ("true", "y", "1"):
            raise ValueError(f"SASFT cannot run with {key}: {why}. Leave {key} out, and {variable} too.")


def run_with_sasft() -> None:
    """Read the configuration as LLaMA-Factory does, and train with SASFT.

    Raises:
        ValueError: a setting is unknown, or SASFT does not support it.
        FileNotFoundError: there is no such feature set or file of token counts.
    """
    from llamafactory.hparams.parser import read_args
    from llamafactory.train.tuner import run_exp

    config = read_args()
    if not isinstance(config, dict):
        raise ValueError(
            "Give a configuration file first, and then any key=value that overrides it: "
            "python -m sae_posttrain.integrations.llamafactory config.yaml."
        )
    settings, rest = split_config(config)
    callback = SASFTCallback(**settings.loaded())
    run_exp(rest, callbacks=[callback])


if __name__ == "__main__":
    run_with_sasft()
