"""What each of two processes runs: `python -m training.rollouts.ranks CONFIG FILE`; one line per case and process."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from .vllm import as_if_vllm_had_generated
from .world import GROUP, Watched, lora, plain, steered

COMPLETIONS = [[4, 5, 6, 1], [5, 6, 7, 8, 1]]
SPLIT = {"per_device_train_batch_size": GROUP // 2, "max_steps": 2}  # one group over both processes
WHOLE = {"per_device_train_batch_size": GROUP // 2, "gradient_accumulation_steps": 2}  # one on each
SETTINGS: Mapping[str, dict[str, Any]] = {
    "steered, split": {},
    "truncated_is, split": {"off_policy": "truncated_is", "mask_truncated_completions": True},
    "outside, capped, split": {"steered_in_baseline": False, "max_steered_token_share": 0.1},
}
CASES: Mapping[str, Callable[[Path, dict[str, Any]], Watched]] = {
    "plain, split": lambda folder, common: Watched(plain(folder, **SPLIT, **common)),
    "steered, split": lambda folder, common: Watched(steered(folder, **SPLIT, **common)),
    "none, split": lambda folder, common: Watched(steered(folder, steered_per_group=0, **SPLIT, **common)),
    "plain, whole": lambda folder, common: Watched(plain(folder, **WHOLE, **common)),
    "steered, whole": lambda folder, common: Watched(steered(folder, **WHOLE, **common)),
    "LoRA, split": lambda folder, common: Watched(steered(folder, peft_config=lora(), **SPLIT, **common)),
    "truncated_is, split": lambda folder, common: Watched(
        steered(folder, **SETTINGS["truncated_is, split"], **SPLIT, **common)
    ),
    "outside, capped, split": lambda folder, common: Watched(
        steered(folder, **SETTINGS["outside, capped, split"], **SPLIT, **common)
    ),
    "vLLM, split": lambda folder, common: as_if_vllm_had_generated(steered(folder, **SPLIT, **common), COMPLETIONS),
}


def check_it_is_meant(config: str, trainer: Any) -> None:
    wrapped = trainer.model_wrapped
    assert isinstance(wrapped, DistributedDataParallel if config == "ddp" else FSDPModule)


def report(config: str, name: str, folder: Path) -> dict[str, Any]:
    common = {"use_cpu": config == "ddp"}  # true would be plain DDP for all of them
    watched = CASES[name](folder, common)
    torch.manual_seed(dist.get_rank())  # each process draws its own, as TRL has it
    watched.trainer.train()
    check_it_is_meant(config, watched.trainer)
    size = watched.trainer.args.per_device_train_batch_size * watched.trainer.args.gradient_accumulation_steps
    parameters = (getattr(p, "full_tensor", lambda p=p: p)() for p in watched.trainer.model.parameters())
    return {
        "case": name,
        "rank": dist.get_rank(),
        "texts": [watched.texts[start : start + size] for start in range(0, len(watched.texts), size)],
        "marked": [(output.get("steered_tokens", torch.zeros(size)) > 0).tolist() for output in watched.generated],
        "lengths": [output["completion_mask"].sum(dim=1).tolist() for output in watched.generated],
        "advantages": [output["advantages"].tolist() for output in watched.generated],
        "counted": [output["num_items_in_batch"].item() for output in watched.generated],
        "first": {name: value.tolist() for name, value in watched.generated[0].items()},
        "weights": sum(parameter.detach().double().sum().item() for parameter in parameters),
        "logged": watched.trainer.state.log_history[0],
    }


def main(config: str, output: Path) -> None:
    gc.freeze()  # as in conftest.py
    with TemporaryDirectory() as folder:
        for name in CASES:
            found = report(config, name, Path(folder))
            with output.with_suffix(f".{dist.get_rank()}").open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
    # A process that leaves while its peer still talks to it takes the peer down.
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
