"""The exactness rows of several processes, and what each process runs: `python -m training.sasft.ranks CONFIG FILE`."""

import gc
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch.distributed as dist
from accelerate.utils import gather_object
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from trl import SFTTrainer

from sae_posttrain.residual import decoder_blocks

from .exactness import Row, adapted, errors_of_the_addition
from .routes import with_callback, with_trainer
from .world import Route, World, build_world

ROUTES: Mapping[str, Route] = {"callback": with_callback, "trainer": with_trainer}
ONE_STEP = {"per_device_train_batch_size": 4}
HARDER = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
}
PACKED = {"packing": True, "packing_strategy": "bfd", "max_length": 24, "per_device_train_batch_size": 2}
ALONE = {"average_tokens_across_devices": False, "train_sampling_strategy": "sequential", "shuffle_dataset": False}
FOUND_WEIGHTS = "weight auto, DDP: weights of 6 steps"
WEIGHT_NAMES = {"features": "sasft_weight", "tokens": "sasft_token_weight"}
ROWS: Mapping[str, Mapping[str, Row]] = {
    "ddp": {
        "DDP": Row(ONE_STEP),
        "DDP, accumulation, checkpointing": Row(HARDER),
        "DDP, LoRA, accumulation, checkpointing": Row(HARDER, adapted()),
        "DDP, torch_compile, eager": Row({**ONE_STEP, "torch_compile": True, "torch_compile_backend": "eager"}),
        "DDP, each rank's own mean": Row({**ONE_STEP, **ALONE}, parts=2),
    },
    "fsdp2": {
        "FSDP2": Row(ONE_STEP),
        "FSDP2, accumulation, checkpointing": Row(HARDER),
        "FSDP2, LoRA": Row(ONE_STEP, adapted()),
        "FSDP2, packing bfd": Row(PACKED),
    },
    "zero2": {"ZeRO-2": Row(ONE_STEP), "ZeRO-2, accumulation, checkpointing": Row(HARDER)},
    "zero3": {
        "ZeRO-3": Row(ONE_STEP),
        "ZeRO-3, accumulation, checkpointing": Row(HARDER),
        "ZeRO-3, LoRA": Row(ONE_STEP, adapted()),
    },
}


def found_weights(world: World, route: Route, **settings: Any) -> dict[str, list[float]]:
    """The weights of six steps of a run in which both terms find their own, by term."""
    both = {"weight": "auto", "token_weight": "auto", "learning_rate": 0.05, "max_steps": 6}
    trainer = world.run(route, **{**both, **settings})
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    return {term: [log[name] for log in logs] for term, name in WEIGHT_NAMES.items()}


def check_it_is_meant(config: str, trainer: SFTTrainer) -> None:
    """That the trainer ran as the configuration says, and not as plain data parallelism."""
    model = trainer.model_wrapped
    if config == "ddp":
        assert isinstance(getattr(model, "_orig_mod", model), DistributedDataParallel)
        assert hasattr(model, "_orig_mod") == trainer.args.torch_compile
    elif config == "fsdp2":
        assert all(isinstance(block, FSDPModule) for block in decoder_blocks(model))
        assert all(hasattr(parameter, "full_tensor") for parameter in model.parameters())
    else:
        assert f"zero{model.zero_optimization_stage()}" == config
    if config == "zero3":
        assert all(parameter.numel() < parameter.ds_numel for parameter in trainer.model.parameters())


def errors(world: World, config: str, route: Route, row: Row) -> dict[str, float]:
    """As `errors_of_the_addition`, over all ranks."""

    def watched(*args: Any, **kwargs: Any) -> SFTTrainer:
        trainers.append(route(*args, **kwargs))
        if config == "zero3":  # parameters below a threshold are not split, and here all would be
            zero = trainers[-1].accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]
            zero["stage3_param_persistence_threshold"] = 0
        return trainers[-1]

    trainers: list[SFTTrainer] = []
    row = replace(row, settings={**row.settings, "use_cpu": config == "ddp"})  # true would be plain DDP for all of them
    found = errors_of_the_addition(world, watched, row)
    check_it_is_meant(config, trainers[-1])
    return found


def main(config: str, output: Path) -> None:
    gc.freeze()  # as in conftest.py
    with TemporaryDirectory() as folder:
        world = build_world(Path(folder))
        for name, row in ROWS[config].items():
            for column, route in ROUTES.items():
                for term, found in errors(world, config, route, row).items():
                    if dist.get_rank() == 0:
                        with output.open("a", encoding="utf-8") as file:
                            file.write(json.dumps([name, column, term, found]) + "\n")
        if config == "ddp":
            for column, route in ROUTES.items():
                of_ranks = gather_object([found_weights(world, route, per_device_train_batch_size=4)])
                if dist.get_rank() == 0:
                    with output.open("a", encoding="utf-8") as file:
                        for term in WEIGHT_NAMES:
                            each = [weights[term] for weights in of_ranks]
                            file.write(json.dumps([FOUND_WEIGHTS, column, term, each]) + "\n")
    # A process that leaves while its peer still talks to it takes the peer down.
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
