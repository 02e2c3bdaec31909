"""`sae-posttrain sft`: supervised fine-tuning with SASFT. It takes TRL's settings and SASFT's, as YAML or options."""

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
    common.add_parser(commands, "sft", "fine-tune and keep languages out of the answers (SASFT)", run, SETTINGS)


def run(args: argparse.Namespace) -> int:
    from ..training.sasft import SASFTConfig, SASFTTrainer  # first: without TRL its message names the extra to install

    from trl import ModelConfig, ScriptArguments, TrlParser  # isort: skip

    parser = TrlParser((ScriptArguments, SASFTConfig, ModelConfig), prog="sae-posttrain sft")
    script, training, model = common.parse(parser, args.rest)
    trainer = SASFTTrainer(**common.inputs_of(script, training, model))
    common.train_and_save(trainer, script)
    return 0
