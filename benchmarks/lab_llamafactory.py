"""Does SASFT halve code-switching in LLaMA-Factory too, at no more than 1% higher held-out loss, by its command line?

    python benchmarks/lab_llamafactory.py [--base FOLDER]

Run it where LLaMA-Factory is installed, such as in `.nox/llamafactory`. Seed 0 of `lab_sasft.py`, whose settings it
takes; the scripts of the answers tell their languages, and checkpointing is LLaMA-Factory's default (reentrant). With
--base it takes the base model and SAEs of an earlier `sae-posttrain demo`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from _lab_effect import LANGUAGE, SEED, SETTINGS, arguments, measure_effect


def train(base: Path, data: Path, features: Path | None, output: Path) -> Path:
    """One run of `llamafactory-cli train`, or of the command that adds SASFT to it."""
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    described = {"file_name": data.name, "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
    data.with_name("dataset_info.json").write_text(json.dumps({"lab": described}), encoding="utf-8")
    config: dict[str, Any] = {
        "model_name_or_path": str(base),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "dataset": "lab",
        "dataset_dir": str(data.parent),
        "cutoff_len": 128,
        "output_dir": str(output),
        "per_device_train_batch_size": SETTINGS.batch,
        "gradient_accumulation_steps": 1,
        "max_steps": SETTINGS.steps,
        "learning_rate": SETTINGS.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 20,
        "seed": SEED,
        "bf16": False,
        "use_cpu": True,
        "logging_steps": 10,
        "save_strategy": "no",
        "report_to": "none",
    }
    command = [str(Path(sys.executable).with_name("llamafactory-cli")), "train"]
    if features is not None:
        config |= {"sasft_features": str(features), "sasft_suppress": LANGUAGE}
        config |= {"sasft_weight": SETTINGS.weight, "sasft_scale": SETTINGS.scale}
        command = [sys.executable, "-m", "sae_posttrain.integrations.llamafactory"]
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    with output.with_suffix(".log").open("w", encoding="utf-8") as log:
        done = subprocess.run([*command, str(path)], stdout=log, stderr=log, cwd=output.parent)
    if done.returncode:
        sys.exit(output.with_suffix(".log").read_text(encoding="utf-8")[-4000:])
    return output


if __name__ == "__main__":
    measure_effect("lab_llamafactory", "llamafactory", train, arguments(__doc__).base)
