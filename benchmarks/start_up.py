"""How long one waits before anything happens: imports, the command line's help, and opening a feature set.

    python benchmarks/start_up.py

Each import and each command runs in a process of its own, in turns with the others; what is timed is the processor. An
import is compared with that of the libraries it cannot do without.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import _rows
import torch
from _models import features
from _timing import Timing, Way, interleaved, table

from sae_posttrain import FeatureSet

ROUNDS = 3
HELPS = ("", "discover", "discover language", "discover repetition", "calibrate", "measure", "steer", "demo")
IMPORTS = {
    "sae_posttrain": "",
    "sae_posttrain.metrics": "regex",
    "sae_posttrain.feature_set": "torch, safetensors.torch",
    "sae_posttrain.steering": "torch, transformers.modeling_utils, transformers.generation.utils",
    "sae_posttrain.training.sasft": "torch, transformers.trainer, trl.trainer.sft_trainer",
    "sae_posttrain.training.rollouts.trainer": "torch, trl.trainer.grpo_trainer, trl.trainer.rloo_trainer",
}


def process(*arguments: str) -> Way:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *arguments]
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


def imports() -> list[Timing]:
    rows = []
    for module, needed in IMPORTS.items():
        ways = {
            f"import {needed}" if needed else "python alone": process("-c", f"import {needed}" if needed else ""),
            f"import {module}": process("-c", f"import {module}"),
        }
        rows += interleaved("import", ways, rounds=ROUNDS, size=module)
    return rows


def helps() -> list[Timing]:
    ways = {
        f"sae-posttrain {command} --help": process("-m", "sae_posttrain", *command.split(), "--help")
        for command in HELPS
    }
    return interleaved("help", ways, rounds=ROUNDS)


def loading() -> list[Timing]:
    """A set as the published settings give: two layers of a model 4096 wide, two features each in eleven languages."""
    with tempfile.TemporaryDirectory() as folder:
        found = features(
            4096, 36, [34, 35], 22, "zh", ("en", "zh", "ru", "ko", "ja", "ar", "th", "vi", "fr", "de", "es")
        )
        path = found.save(Path(folder) / "features.safetensors")
        return interleaved(
            "FeatureSet.load",
            {"FeatureSet.load": lambda: FeatureSet.load(path)},
            rounds=51,
            size=f"{path.stat().st_size / 1e6:.1f} MB",
        )


def main() -> None:
    torch.set_num_threads(1)  # two threads that wait for each other on a busy machine take forty times as long to load
    rows = [*imports(), *helps(), *loading()]
    print(table(rows))
    print(_rows.write("start_up", rows))


if __name__ == "__main__":
    main()
