"""`sae-posttrain sft`: supervised fine-tuning with SASFT, from a YAML file of TRL's own settings."""

from __future__ import annotations

import argparse

from . import trainer_runs as common

SETTINGS = {
    **{name: f"sasft_{name}" for name in ("weight", "baseline", "scale", "refresh_baselines", "loss_budget")},
    "args.features": "features",
    "SASFTConfig:": "settings:",
    "SASFTConfig(suppress=['zh'])": "suppress: [zh]",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    common.add_parser(commands, "sft", "fine-tune with SASFT", run, SETTINGS)


def run(args: argparse.Namespace) -> int:
    from ..training.sasft import SASFTConfig, SASFTTrainer  # first: it says which extra to install

    from trl import ModelConfig, ScriptArguments, TrlParser  # isort: skip

    parser = TrlParser((ScriptArguments, SASFTConfig, ModelConfig), prog="sae-posttrain sft")
    script, training, model = common.parse(parser, args.rest)
    trainer = SASFTTrainer(**common.inputs_of(script, training, model))
    common.train_and_save(trainer, script)
    return 0
