"""Does SASFT halve code-switching in Axolotl too, at no more than 1% higher held-out loss, by its own command line?

    python benchmarks/lab_axolotl.py [--base FOLDER]

Run it where Axolotl is installed, such as in `.nox/axolotl`. Seed 0 of `lab_sasft.py`, whose settings it takes; the
answers' tokens have labels, as Axolotl's chat templates have it. With --base it takes the base model and SAEs of an
earlier `sae-posttrain demo`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from _lab_effect import LANGUAGE, SEED, SETTINGS, arguments, measure_effect


def train(base: Path, data: Path, features: Path | None, output: Path) -> Path:
    """One run of `axolotl train`."""
    config: dict[str, Any] = {
        "base_model": str(base),
        "datasets": [{"path": str(data), "ds_type": "json", "type": "chat_template", "field_messages": "messages"}],
        "chat_template": "tokenizer_default",
        "dataset_prepared_path": str(output.parent / "prepared"),
        "output_dir": str(output),
        "sequence_len": 128,
        "micro_batch_size": SETTINGS.batch,
        "gradient_accumulation_steps": 1,
        "max_steps": SETTINGS.steps,
        "optimizer": "adamw_torch",
        "learning_rate": SETTINGS.learning_rate,
        "lr_scheduler": "cosine",
        "warmup_steps": 20,
        "bf16": False,
        "fp16": False,
        "tf32": False,
        "attn_implementation": "sdpa",
        "seed": SEED,
        "logging_steps": 10,
        "save_strategy": "no",
        "val_set_size": 0,
        "dataloader_num_workers": 0,
    }
    if features is not None:
        config |= {
            "plugins": ["sae_posttrain.integrations.axolotl.SASFTPlugin"],
            "sasft_features": str(features),
            "sasft_suppress": LANGUAGE,
            "sasft_weight": SETTINGS.weight,
            "sasft_scale": SETTINGS.scale,
        }
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("axolotl")), "train", str(path), "--launcher", "python"]
    environment = {**os.environ, "AXOLOTL_DO_NOT_TRACK": "1"}
    with output.with_suffix(".log").open("w", encoding="utf-8") as log:
        done = subprocess.run(command, env=environment, stdout=log, stderr=log, cwd=output.parent)
    if done.returncode:
        sys.exit(output.with_suffix(".log").read_text(encoding="utf-8")[-4000:])
    return output


if __name__ == "__main__":
    measure_effect("lab_axolotl", "axolotl", train, arguments(__doc__).base)
